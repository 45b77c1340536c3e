#![no_main]

hauberk_fuzz::target!("request_path");
