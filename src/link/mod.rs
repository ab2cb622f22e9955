//! Control plane of one link.
