//! What a revision is.
