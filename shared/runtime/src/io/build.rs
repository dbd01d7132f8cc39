//! Which build of Tandem this is.

/// The version of the release, as `Cargo.toml` has it.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit that a release was built from, and its date: `a02b3ae 2026-11-27`. `dev` in a dev build, `unknown` where
/// neither git nor `TANDEM_COMMIT` in the environment of the build said so.
pub const COMMIT: &str = env!("TANDEM_BUILD_COMMIT");
