//! The third message: the proof (MS-NLMP §2.2.1.3, §3.1.5.1.2).

use std::time::Duration;

use thiserror::Error;

use super::challenge::{Challenge, ChallengeError, TargetInformation};
use super::channel_binding::ChannelBinding;
use super::response::{Responses, utf_16, version_1, version_1_extended, version_2};
use super::{MessageType, SIGNATURE, VERSION, flags};
use crate::credential::{Account, NtlmVersions, Secret};

/// What a proof is made from, besides the challenge.
#[derive(Debug, Clone)]
pub struct Proof<'a> {
    pub account: &'a Account,
    pub password: &'a Secret,
    pub versions: NtlmVersions,
    pub workstation: &'a str,
    /// The server that we expect; `None` leaves it open.
    pub service: Option<Service<'a>>,
    /// Random, new for every proof.
    pub client_nonce: [u8; 8],
    /// Used if the server does not send its time.
    pub now: FileTime,
}

/// What Extended Protection checks. Behind a balancer that terminates TLS neither part matches.
#[derive(Debug, Clone, Copy)]
pub struct Service<'a> {
    /// The host that was connected to; `HTTP/host` is claimed.
    pub host: &'a str,
    /// With TLS.
    pub binding: Option<ChannelBinding>,
}

/// Why no proof could be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NtlmError {
    #[error(transparent)]
    Challenge(#[from] ChallengeError),
    #[error("the server does not support NTLM version 2: allow version 1 if you trust the server")]
    VersionOneOnly,
    #[error("a name is too long for NTLM")]
    TooLong,
}

/// 100 ns since 1601.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileTime(u64);

impl FileTime {
    #[must_use]
    pub fn from_unix(since_1970: Duration) -> Self {
        let seconds = since_1970.as_secs().saturating_add(SECONDS_1601_TO_1970);
        let ticks = seconds.saturating_mul(TICKS_PER_SECOND);
        Self(ticks.saturating_add(u64::from(since_1970.subsec_nanos()) / NANOS_PER_TICK))
    }
}

/// Answers a challenge. `negotiate` is our first message as it was sent: the integrity code covers it.
///
/// # Errors
/// If the challenge is malformed, or version 2 is required of a server that does not support it.
pub fn authenticate(proof: &Proof<'_>, negotiate: &[u8], challenge: &[u8]) -> Result<Vec<u8>, NtlmError> {
    let parsed = Challenge::parse(challenge)?;
    let responses = responses(proof, &parsed)?;
    let agreed = flags::AGREED & parsed.flags | flags::UNICODE | flags::VERSION;
    let has_time = parsed
        .target_information
        .is_some_and(|information| information.get(TargetInformation::TIMESTAMP).is_some());
    match &responses.session_key {
        Some(key) if has_time => {
            let unsigned = message(proof, &responses, agreed, Some([0; 16]))?;
            let code = key.integrity_code(&[negotiate, challenge, &unsigned]);
            message(proof, &responses, agreed, Some(code))
        }
        Some(_) | None => message(proof, &responses, agreed, None),
    }
}

fn responses(proof: &Proof<'_>, challenge: &Challenge) -> Result<Responses, NtlmError> {
    match (proof.versions, &challenge.target_information) {
        (NtlmVersions::V2Only | NtlmVersions::V1Allowed, Some(information)) => {
            responses_of_version_2(proof, &challenge.nonce, information)
        }
        (NtlmVersions::V2Only, None) => Err(NtlmError::VersionOneOnly),
        (NtlmVersions::V1Allowed, None) | (NtlmVersions::V1Only, _) => {
            Ok(responses_of_version_1(proof, challenge))
        }
    }
}

fn responses_of_version_1(proof: &Proof<'_>, challenge: &Challenge) -> Responses {
    if challenge.flags & flags::EXTENDED_SESSION_SECURITY == 0 {
        version_1(proof.password, &challenge.nonce)
    } else {
        version_1_extended(proof.password, &challenge.nonce, &proof.client_nonce)
    }
}

fn responses_of_version_2(
    proof: &Proof<'_>,
    nonce: &[u8; 8],
    told: &TargetInformation,
) -> Result<Responses, NtlmError> {
    let told_time = told
        .get(TargetInformation::TIMESTAMP)
        .and_then(|time| time.first_chunk());
    let time = told_time.copied().unwrap_or_else(|| proof.now.0.to_le_bytes());
    let information = vouched_for(proof, told);
    let responses = version_2(
        proof.account,
        proof.password,
        nonce,
        &proof.client_nonce,
        time,
        &information,
    );
    responses.ok_or(NtlmError::TooLong)
}

/// The server's target information, with our additions.
fn vouched_for(proof: &Proof<'_>, told: &TargetInformation) -> TargetInformation {
    let mut information = told.clone();
    if told.get(TargetInformation::TIMESTAMP).is_some() {
        let flags = told
            .get(TargetInformation::FLAGS)
            .and_then(|flags| flags.first_chunk());
        let flags = flags.map_or(0, |flags| u32::from_le_bytes(*flags)) | INTEGRITY_CODE_PRESENT;
        information.set(TargetInformation::FLAGS, flags.to_le_bytes().to_vec());
    }
    information.remove(TargetInformation::CHANNEL_BINDINGS);
    information.remove(TargetInformation::TARGET_NAME);
    if let Some(Service { host, binding }) = proof.service {
        if let Some(binding) = binding {
            information.set(TargetInformation::CHANNEL_BINDINGS, binding.as_bytes().to_vec());
        }
        information.set(TargetInformation::TARGET_NAME, utf_16(&format!("HTTP/{host}")));
    }
    information
}

/// Space for the integrity code is there only if there is a code.
fn message(
    proof: &Proof<'_>,
    responses: &Responses,
    agreed: u32,
    integrity_code: Option<[u8; 16]>,
) -> Result<Vec<u8>, NtlmError> {
    let integrity_code = integrity_code.as_ref().map_or(&[][..], |code| code);
    let mut payload = Payload::at(HEADER_BYTES + integrity_code.len());
    let domain = payload.add(&utf_16(proof.account.domain()))?;
    let user = payload.add(&utf_16(proof.account.user()))?;
    let workstation = payload.add(&utf_16(proof.workstation))?;
    let lm = payload.add(&responses.lm)?;
    let nt = payload.add(&responses.nt)?;
    let session_key = payload.add(&[])?;
    Ok([
        SIGNATURE,
        &MessageType::Authenticate.to_bytes(),
        &lm,
        &nt,
        &domain,
        &user,
        &workstation,
        &session_key,
        &agreed.to_le_bytes(),
        &VERSION,
        integrity_code,
        &payload.bytes,
    ]
    .concat())
}

/// What follows the header, and the fields that point into it.
struct Payload {
    starts_at: usize,
    bytes: Vec<u8>,
}

impl Payload {
    fn at(starts_at: usize) -> Self {
        Self {
            starts_at,
            bytes: Vec::new(),
        }
    }

    /// Length, allocated length and offset, as in the header.
    fn add(&mut self, part: &[u8]) -> Result<[u8; 8], NtlmError> {
        let length = u16::try_from(part.len()).map_err(|_| NtlmError::TooLong)?;
        let offset = u32::try_from(self.starts_at + self.bytes.len()).map_err(|_| NtlmError::TooLong)?;
        self.bytes.extend(part);
        let [l, h] = length.to_le_bytes();
        let [o0, o1, o2, o3] = offset.to_le_bytes();
        Ok([l, h, l, h, o0, o1, o2, o3])
    }
}

/// Signature, type, six fields, flags and version.
const HEADER_BYTES: usize = 8 + 4 + 6 * 8 + 4 + 8;
/// In `MsvAvFlags`.
const INTEGRITY_CODE_PRESENT: u32 = 2;
const SECONDS_1601_TO_1970: u64 = 11_644_473_600;
const TICKS_PER_SECOND: u64 = 10_000_000;
const NANOS_PER_TICK: u64 = 100;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ntlm::negotiate;
    use crate::ntlm::response::tests::{CLIENT_NONCE, account, hex, password};

    /// MS-NLMP §4.2.4.3: the challenge and what the response to it says.
    #[test]
    fn a_published_challenge_is_answered_as_published() {
        let answer = Answer::to(&published_challenge(), NtlmVersions::V2Only, None);
        assert_eq!(
            answer.part(LM),
            hex("86c35097ac9cec102554764a57cccc19aaaaaaaaaaaaaaaa")
        );
        assert_eq!(answer.part(NT)[..16], hex("68cd0ab851e51c96aabc927bebef6a1c"));
        assert_eq!(answer.part(DOMAIN), utf_16("Domain"));
        assert_eq!(answer.part(USER), utf_16("User"));
        assert_eq!(answer.part(WORKSTATION), utf_16("COMPUTER"));
        assert_eq!(answer.part(SESSION_KEY), b"");
        assert_eq!(answer.0.len(), HEADER_BYTES + 12 + 8 + 16 + 24 + 84);
    }

    /// With the server's time, an integrity code and a channel binding; the proof is one that an independent
    /// implementation computed of the same values.
    #[test]
    fn a_server_that_tells_the_time_gets_an_integrity_code_and_no_lm_response() {
        let challenge = challenge_with_time();
        let mut information = TargetInformation::default();
        information.set(2, utf_16("Domain"));
        information.set(1, utf_16("Server"));
        information.set(TargetInformation::TIMESTAMP, vec![0; 8]);
        information.set(TargetInformation::FLAGS, vec![2, 0, 0, 0]);
        information.set(
            TargetInformation::CHANNEL_BINDINGS,
            hex("6ea19df066da4622051f9c4f92c6df74"),
        );
        let nonce = Challenge::parse(&challenge).unwrap().nonce;
        let responses = version_2(
            &account(),
            &password(),
            &nonce,
            &CLIENT_NONCE,
            [0; 8],
            &information,
        )
        .unwrap();
        assert_eq!(responses.nt[..16], hex("a13d038ad0ca026433897c335e0f56df"));

        let answer = Answer::to(&challenge, NtlmVersions::V2Only, None);
        assert_eq!(answer.part(LM), [0; 24]);
        let mut unsigned = answer.0.clone();
        unsigned[HEADER_BYTES..HEADER_BYTES + 16].fill(0);
        let responses = responses_to(&challenge, None);
        let code = responses
            .session_key
            .unwrap()
            .integrity_code(&[&negotiate(), &challenge, &unsigned]);
        assert_eq!(answer.0[HEADER_BYTES..HEADER_BYTES + 16], code);
    }

    #[test]
    fn name_and_channel_are_vouched_for_when_they_are_known() {
        let service = Service {
            host: "mail.lab.test",
            binding: Some(ChannelBinding::of_server(b"certificate")),
        };
        let bound = Answer::to(&challenge_with_time(), NtlmVersions::V2Only, Some(service));
        let blob = bound.part(NT);
        assert!(contains(blob, &utf_16("HTTP/mail.lab.test")));
        assert!(contains(blob, service.binding.unwrap().as_bytes()));
        let unbound = Answer::to(&challenge_with_time(), NtlmVersions::V2Only, None);
        assert!(!contains(unbound.part(NT), &utf_16("HTTP/")));
    }

    #[test]
    fn version_1_is_used_only_when_allowed() {
        let mut without_information = published_challenge();
        without_information[22] &= !0x80;
        let refused = authenticate(
            &proof(NtlmVersions::V2Only, None),
            &negotiate(),
            &without_information,
        );
        assert_eq!(refused, Err(NtlmError::VersionOneOnly));
        let allowed = Answer::to(&without_information, NtlmVersions::V1Allowed, None);
        assert_eq!(
            allowed.part(NT),
            hex("7537f803ae367128ca458204bde7caf81e97ed2683267232")
        );
        let better = Answer::to(&published_challenge(), NtlmVersions::V1Allowed, None);
        assert_eq!(better.part(NT).len(), 84);
        let only = Answer::to(&published_challenge(), NtlmVersions::V1Only, None);
        assert_eq!(only.part(NT).len(), 24);
        let mut plain = without_information;
        plain[22] &= !0x08;
        let plain = Answer::to(&plain, NtlmVersions::V1Only, None);
        assert_eq!(
            plain.part(NT),
            hex("67c43011f30298a2ad35ece64f16331c44bdbed927841f94")
        );
    }

    #[test]
    fn nothing_is_signed_or_sealed_whatever_the_server_wants() {
        let mut eager = published_challenge();
        eager[20..24].fill(0xff);
        let answer = Answer::to(&eager, NtlmVersions::V2Only, None);
        let flags = u32::from_le_bytes(answer.0[60..64].try_into().unwrap());
        assert_eq!(flags & (flags::SIGN | flags::SEAL | flags::KEY_EXCHANGE), 0);
    }

    #[test]
    fn names_that_do_not_fit_are_refused() {
        let mut proof = proof(NtlmVersions::V2Only, None);
        let workstation = "W".repeat(40_000);
        proof.workstation = &workstation;
        assert_eq!(
            authenticate(&proof, &negotiate(), &published_challenge()),
            Err(NtlmError::TooLong)
        );
    }

    #[test]
    fn windows_counts_from_1601() {
        assert_eq!(
            FileTime::from_unix(Duration::ZERO),
            FileTime(116_444_736_000_000_000)
        );
        assert_eq!(
            FileTime::from_unix(Duration::from_nanos(1_000_000_250)),
            FileTime(116_444_736_010_000_002)
        );
    }

    proptest! {
        #[test]
        fn any_challenge_is_answered_or_refused(
            flags in any::<u32>(),
            tail in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let opens = [SIGNATURE, &[2, 0, 0, 0], &[0; 8], &(flags | 1).to_le_bytes()].concat();
            let challenge = [opens, tail].concat();
            for versions in [NtlmVersions::V2Only, NtlmVersions::V1Allowed, NtlmVersions::V1Only] {
                let _ = authenticate(&proof(versions, None), &negotiate(), &challenge);
            }
        }
    }

    struct Answer(Vec<u8>);

    impl Answer {
        fn to(challenge: &[u8], versions: NtlmVersions, service: Option<Service<'_>>) -> Self {
            Self(authenticate(&proof(versions, service), &negotiate(), challenge).unwrap())
        }

        fn part(&self, field: usize) -> &[u8] {
            let at = 12 + field * 8;
            let length = u16::from_le_bytes(self.0[at..at + 2].try_into().unwrap());
            let offset = u32::from_le_bytes(self.0[at + 4..at + 8].try_into().unwrap());
            &self.0[usize::try_from(offset).unwrap()..][..usize::from(length)]
        }
    }

    fn responses_to(challenge: &[u8], service: Option<Service<'_>>) -> Responses {
        let challenge = Challenge::parse(challenge).unwrap();
        responses(&proof(NtlmVersions::V2Only, service), &challenge).unwrap()
    }

    fn proof(versions: NtlmVersions, service: Option<Service<'_>>) -> Proof<'_> {
        Proof {
            account: Box::leak(Box::new(account())),
            password: Box::leak(Box::new(password())),
            versions,
            workstation: "COMPUTER",
            service,
            client_nonce: CLIENT_NONCE,
            now: FileTime(0),
        }
    }

    /// MS-NLMP §4.2.4.3.
    fn published_challenge() -> Vec<u8> {
        hex(
            "4e544c4d53535000020000000c000c003800000033828ae20123456789abcdef00000000000000002400240044000000\
             060070170000000f53006500720076006500720002000c0044006f006d00610069006e0001000c00530065007200760065\
             00720000000000",
        )
    }

    /// The same, telling that it is the beginning of 1601.
    fn challenge_with_time() -> Vec<u8> {
        let mut challenge = published_challenge();
        challenge.truncate(challenge.len() - 4);
        challenge.extend([7, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        challenge[40..44].copy_from_slice(&[48, 0, 48, 0]);
        challenge
    }

    fn contains(bytes: &[u8], part: &[u8]) -> bool {
        bytes.windows(part.len()).any(|window| window == part)
    }

    const LM: usize = 0;
    const NT: usize = 1;
    const DOMAIN: usize = 2;
    const USER: usize = 3;
    const WORKSTATION: usize = 4;
    const SESSION_KEY: usize = 5;
}
