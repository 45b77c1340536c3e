#![no_main]

hauberk_fuzz::target!("certificate_request");
