//! The destination cluster as its metadata log tells it.
