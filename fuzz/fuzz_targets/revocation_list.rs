#![no_main]

hauberk_fuzz::target!("revocation_list");
