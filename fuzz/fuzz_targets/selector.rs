#![no_main]

hauberk_fuzz::target!("selector");
