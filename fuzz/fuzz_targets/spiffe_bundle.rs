#![no_main]

hauberk_fuzz::target!("spiffe_bundle");
