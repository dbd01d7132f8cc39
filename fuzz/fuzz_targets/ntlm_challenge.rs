//! Any bytes are a challenge that is answered, or are refused.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use tandem_exchange::credential::{Account, NtlmVersions, Secret};
use tandem_exchange::ntlm::{FileTime, Proof, Service, authenticate, negotiate};

fuzz_target!(|challenge: &[u8]| {
    let account = Account::parse("CONTOSO\\svc-presence").expect("it is an account");
    let password = Secret::new("password".to_owned());
    for versions in [
        NtlmVersions::V2Only,
        NtlmVersions::V1Allowed,
        NtlmVersions::V1Only,
    ] {
        let proof = Proof {
            account: &account,
            password: &password,
            versions,
            workstation: "TANDEM",
            service: Some(Service {
                host: "mail.lab.test",
                binding: None,
            }),
            client_nonce: [0xaa; 8],
            now: FileTime::from_unix(Duration::ZERO),
        };
        let _ = authenticate(&proof, &negotiate(), challenge);
    }
});
