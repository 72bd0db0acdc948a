//! The host that netring runs on: its network, its limits, its signals, its service manager, its disk.
//!
//! One module per subject; only the vitals are used by others. Everything here works on a bare machine, in a container and
//! under systemd. Where a facility is missing, the caller gets what is possible without it and can see that.

pub mod address;
pub mod descriptors;
pub mod logging;
pub mod memory;
pub mod network;
pub mod reload;
pub mod signals;
pub mod state;
pub mod systemd;
pub mod vitals;
