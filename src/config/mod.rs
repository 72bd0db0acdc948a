//! Reads YAML and environment variables into checked settings: all values are in range and fit together.
//!
//! A role's settings come from environment variables, then from its file, and from defaults for the rest
//! ([`load_registry`], [`load_member`]). Reading is strict: an unknown key, a value of the wrong type or out of range, a
//! duplicate key or a missing required key is a fault, and one run reports all of them with line and
//! column ([`ConfigFaults`]). A command that finds one ends with exit code 78 and changes nothing. What is valid but
//! unlikely to be meant is a warning, which `netring check` and the log show ([`Loaded::warnings`]).
//!
//! The files of this module, from text to meaning; each uses only those before it: `fault`, `yaml` (a tree with
//! positions), `level` and `settings` (what comes out), `form` (what values look like), `keys` (the one table of
//! settings), `environment` (the variables), `file` (reads and parses), `source` (finds the value of one key and
//! collects faults and warnings), `load` (puts the settings together).

mod environment;
mod fault;
mod file;
mod form;
mod keys;
mod level;
mod load;
mod nearest;
mod settings;
mod source;
#[cfg(test)]
mod tests;
mod yaml;

pub use environment::{Environment, environment};
pub use fault::{ConfigFaults, Fault, Place, Position};
pub use file::ConfigFile;
pub use form::network::Unusable;
pub use form::parse_duration;
pub use keys::{Key, KeyDefault, keys};
pub use level::{InvalidLevel, LogLevel};
pub use load::{Loaded, listening_address, load_member, load_registry, member_from, registry_from};
pub use settings::{
    Advertise, Checks, Intervals, LogFormat, LogSettings, MemberSettings, RedisSettings, RegistryLink,
    RegistrySettings, RegistryUrl, Role, Secret, ServerSettings, longest_probe,
};
pub use source::{Effective, Source};
