#![no_main]

hauberk_fuzz::target!("jwk_set");
