//! The subcommands, one file each: what the operator typed becomes calls into the rooms below, and their answer an exit
//! code.

pub mod check;
//! One file per subcommand.
pub mod probe;
