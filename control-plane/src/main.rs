//! Issues short-lived service certificates and pushes authorization rules.

fn main() {}
