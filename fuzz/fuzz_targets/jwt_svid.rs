#![no_main]

hauberk_fuzz::target!("jwt_svid");
