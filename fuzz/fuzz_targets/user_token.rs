#![no_main]

hauberk_fuzz::target!("user_token");
