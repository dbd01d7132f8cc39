//! TOML text to typed values; all problems at once.
