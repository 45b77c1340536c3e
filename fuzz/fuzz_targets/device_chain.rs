#![no_main]

hauberk_fuzz::target!("device_chain");
