//! The member daemon.

pub mod prober;
