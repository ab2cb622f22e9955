//! The configuration file: raw text to checked values.
