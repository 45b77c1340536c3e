#![no_main]

hauberk_fuzz::target!("client_hello");
