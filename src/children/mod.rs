//! The objects an agent owns, as pure builders.
