//! netring tells, from every site, whether every other site can be reached, how fast, and whose fault it is when it
//! cannot.

pub mod clock;
pub mod command;
pub mod config;
pub mod host;
pub mod member;
pub mod probe;
pub mod registry;
pub mod serve;
pub mod wire;
