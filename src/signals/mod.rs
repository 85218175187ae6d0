//! Where verdicts come from.
