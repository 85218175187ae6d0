//! What `make demo` and the cluster tests share.

pub mod load;
pub mod stream;
