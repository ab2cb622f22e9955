//! Our seat in the destination cluster.
