#![no_main]

hauberk_fuzz::target!("signed_document");
