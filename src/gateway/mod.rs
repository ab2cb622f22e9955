//! Clients that reach us because we lead.
