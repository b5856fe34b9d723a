//! Values of flags, read as Docker reads them. Nothing here looks at the host, except for
//! environment variables and files that a value names.

pub(crate) mod amounts;
pub(crate) mod env;
pub(crate) mod keys;
pub(crate) mod mounts;
pub(crate) mod names;
pub(crate) mod policy;
pub(crate) mod ports;
pub(crate) mod times;

/// What's wrong with a value; clap says which flag's it is.
pub(crate) type Problem = String;
