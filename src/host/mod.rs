//! Access to the host: systemd, signals, log, state directory, addresses, network and limits.
//!
//! Each file has one subject and does not use the others. Everything works on bare metal, in a container and under systemd.
//! If the host lacks a facility, the function falls back to the next best one and tells its caller.

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
