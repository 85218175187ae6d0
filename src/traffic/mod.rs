//! Who moves the weight.
