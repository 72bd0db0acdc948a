//! The machine underneath: what netring asks of the host it runs on.
//!
//! One file per matter, none knows another. Everything here works on a bare machine, in a container and under systemd;
//! where a facility is missing the caller gets the next best thing and is told so.

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
