//! The hauberk command line.

fn main() {}
