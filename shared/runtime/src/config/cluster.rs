//! `[cluster]`: who the members are, and how they know each other.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::{Section, TlsFiles};
use tandem_cluster::{Format, MemberAddress, MemberRole, NodeId};

/// `[cluster]`, without the keys that only one binary has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterSection {
    /// Stands in every member's certificate: members of another cluster are strangers.
    pub name: String,
    /// The peer listener of this member.
    pub listen: SocketAddr,
    /// All members, this one among them.
    pub members: Vec<ClusterMember>,
    pub security: PeerSecurity,
    /// How long every member must have run a release before its format is written; `None`: only when an administrator
    /// says so.
    pub finalise_after: Option<Duration>,
    /// [`Format::NEWEST`], unless a test lets this member pass for an earlier release.
    pub newest_format: Format,
    /// With fewer bytes left on the disk, this member does not lead, and adds nothing while nobody else can.
    pub disk_free_bytes_min: u64,
    pub log: LogBounds,
}

/// How much of the log a member keeps; `None`: as much as it keeps by default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogBounds {
    /// A snapshot is made after this many entries.
    pub snapshot_after_entries: Option<u64>,
    /// Entries kept behind a snapshot.
    pub entries_kept: Option<u64>,
    /// Size of one file of the log.
    pub file_bytes: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterMember {
    pub id: NodeId,
    pub kind: MemberRole,
    /// Its peer listener.
    pub address: MemberAddress,
}

/// How peers authenticate each other (CL-7).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerSecurity {
    MutualTls(TlsFiles),
    /// Only where every address is loopback, and only when asked for by name.
    PlaintextOnLoopback,
}

impl ClusterSection {
    /// Takes the common keys out of `[cluster]`; whatever else a binary has there it takes itself. `own` is this
    /// member's id and kind, once they are known to be valid.
    pub fn read(section: &mut Section, own: Option<(NodeId, MemberRole)>) -> Option<Self> {
        let name = read_name(section);
        let listen = section.address("listen");
        let members = read_members(section);
        let security = read_security(section, listen, &members);
        let finalise_after = read_finalise_after(section);
        let disk_free_bytes_min = section.number_or("disk_free_bytes_min", 64 << 20, 0..=1 << 50);
        let newest_format = section.number_or("newest_format", Format::NEWEST.0, 1..=Format::NEWEST.0);
        let log = LogBounds {
            snapshot_after_entries: section.optional_number("snapshot_after_entries", SNAPSHOT_AFTER_ENTRIES),
            entries_kept: section.optional_number("entries_kept", ENTRIES_KEPT),
            file_bytes: section.optional_number("log_file_bytes", LOG_FILE_BYTES),
        };
        check_members(section, &members, own);
        Some(Self {
            name,
            listen: listen?,
            members,
            security: security?,
            finalise_after,
            newest_format: Format(newest_format),
            disk_free_bytes_min,
            log,
        })
    }

    #[must_use]
    pub fn member(&self, id: NodeId) -> Option<&ClusterMember> {
        self.members.iter().find(|member| member.id == id)
    }
}

fn read_name(section: &mut Section) -> String {
    let name = section.text_or("name", "main");
    let is_label = name.len() <= 40
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-');
    if !is_label {
        section.problem(
            "name",
            format!("{name:?} is not accepted"),
            "up to 40 of a-z, 0-9 and inner hyphens",
        );
    }
    name
}

fn read_finalise_after(section: &mut Section) -> Option<Duration> {
    let accepted = Duration::ZERO..=Duration::from_secs(30 * 24 * 60 * 60);
    let after = section.duration_or("finalise_after_secs", Duration::from_secs(24 * 60 * 60), accepted);
    let manual = section.choice("finalise", &[("automatic", false), ("manual", true)]);
    (!manual).then_some(after)
}

fn read_members(section: &mut Section) -> Vec<ClusterMember> {
    section
        .sections("member")
        .iter_mut()
        .filter_map(read_member)
        .collect()
}

fn read_member(member: &mut Section) -> Option<ClusterMember> {
    let id = member.number("id", MEMBER_IDS);
    let kind = member.required_choice(
        "kind",
        &[("node", MemberRole::Node), ("witness", MemberRole::Witness)],
    );
    let address = member.parsed("address", "ADDRESS:PORT or NAME:PORT");
    Some(ClusterMember {
        id: NodeId(id?),
        kind: kind?,
        address: address?,
    })
}

fn read_security(
    section: &mut Section,
    listen: Option<SocketAddr>,
    members: &[ClusterMember],
) -> Option<PeerSecurity> {
    let plaintext = section.flag_or("plaintext_on_loopback", false);
    let tls = section.optional_section("tls");
    match (plaintext, tls) {
        (false, Some(mut tls)) => TlsFiles::read(&mut tls, "authority").map(PeerSecurity::MutualTls),
        (false, None) => {
            section.problem(
                "tls",
                "is missing",
                "certificate, key and authority; or plaintext_on_loopback = true",
            );
            None
        }
        (true, None) => {
            let addresses = members.iter().map(|member| member.address.clone());
            let mut addresses = addresses.chain(listen.map(MemberAddress::from));
            if let Some(exposed) = addresses.find(|address| !address.is_loopback()) {
                let what = format!("{exposed} is not loopback, and peers would not be authenticated there");
                section.problem("plaintext_on_loopback", what, "false, with [cluster.tls]");
            }
            Some(PeerSecurity::PlaintextOnLoopback)
        }
        (true, Some(mut tls)) => {
            TlsFiles::read(&mut tls, "authority");
            section.problem(
                "plaintext_on_loopback",
                "contradicts [cluster.tls]",
                "one of the two",
            );
            None
        }
    }
}

/// Why nobody can connect there.
fn unreachable(address: &MemberAddress) -> Option<&'static str> {
    if address.port() == 0 {
        return Some("port 0 is none");
    }
    let MemberAddress::Address(address) = address else {
        return None;
    };
    let ip = address.ip();
    if ip.is_unspecified() {
        Some("it stands for every address of a machine, and peers need one")
    } else if ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST) {
        Some("it is no single machine's")
    } else {
        None
    }
}

fn check_members(section: &Section, members: &[ClusterMember], own: Option<(NodeId, MemberRole)>) {
    let ids: BTreeSet<NodeId> = members.iter().map(|member| member.id).collect();
    if ids.len() < members.len() {
        section.problem("member", "two members have the same id", "an id per member");
    }
    for member in members {
        if let Some(problem) = unreachable(&member.address) {
            let what = format!("{} has the address {}: {problem}", member.id, member.address);
            section.problem("member", what, "where the other members reach it");
        }
    }
    let addresses: BTreeSet<&MemberAddress> = members.iter().map(|member| &member.address).collect();
    if addresses.len() < members.len() {
        section.problem(
            "member",
            "two members have the same address",
            "an address per member",
        );
    }
    let nodes = members
        .iter()
        .filter(|member| member.kind == MemberRole::Node)
        .count();
    if !(1..=NODES_MAX).contains(&nodes) {
        let accepted = format!("1 to {NODES_MAX} members of kind \"node\"");
        section.problem("member", format!("there are {nodes} nodes"), accepted);
    }
    if members.len() - nodes > WITNESSES_MAX {
        let accepted = format!("at most {WITNESSES_MAX} members of kind \"witness\"");
        section.problem("member", "there are too many witnesses", accepted);
    }
    if let Some((id, kind)) = own
        && !members
            .iter()
            .any(|member| (member.id, member.kind) == (id, kind))
    {
        let word = match kind {
            MemberRole::Node => "node",
            MemberRole::Witness => "witness",
        };
        section.problem(
            "member",
            format!("this {word}, id {}, is not among them", id.0),
            "all members, this one too",
        );
    }
}

/// Six digits: what stands in a To-tag (`n1-…`).
const MEMBER_IDS: std::ops::RangeInclusive<u64> = 1..=999_999;
const SNAPSHOT_AFTER_ENTRIES: std::ops::RangeInclusive<u64> = 100..=1_000_000;
const ENTRIES_KEPT: std::ops::RangeInclusive<u64> = 0..=1_000_000;
const LOG_FILE_BYTES: std::ops::RangeInclusive<u64> = 4096..=1 << 30;
/// LB-7.
const NODES_MAX: usize = 7;
const WITNESSES_MAX: usize = 2;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{ConfigError, read_text};
    use super::*;

    const MEMBERS: &str = r#"
        [[cluster.member]]
        id = 1
        kind = "node"
        address = "127.0.0.1:7001"
        [[cluster.member]]
        id = 100
        kind = "witness"
        address = "127.0.0.1:7100"
    "#;

    fn read(cluster: &str, members: &str) -> Result<ClusterSection, Vec<String>> {
        let text = format!("[cluster]\n{cluster}\n{members}");
        let own = Some((NodeId(1), MemberRole::Node));
        match read_text(Path::new("/etc/tandem/node.toml"), &text, |root| {
            ClusterSection::read(&mut root.section("cluster"), own)
        }) {
            Ok(section) => Ok(section),
            Err(ConfigError::Invalid { problems, .. }) => Err(problems
                .iter()
                .map(|problem| format!("{}: {}", problem.key, problem.what))
                .collect()),
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn a_cluster_on_loopback_may_do_without_certificates_when_it_says_so() {
        let section = read(
            "listen = \"127.0.0.1:7001\"\nplaintext_on_loopback = true",
            MEMBERS,
        )
        .unwrap();
        assert_eq!(
            (section.name.as_str(), &section.security),
            ("main", &PeerSecurity::PlaintextOnLoopback)
        );
        assert_eq!(section.member(NodeId(100)).unwrap().kind, MemberRole::Witness);
        let unsaid = read("listen = \"127.0.0.1:7001\"", MEMBERS).unwrap_err();
        assert_eq!(unsaid, ["cluster.tls: is missing"]);
    }

    #[test]
    fn a_member_may_be_given_by_name_where_certificates_are_used() {
        let members = MEMBERS.replace("127.0.0.1:7100", "lb.example:7100");
        let tls =
            "listen = \"127.0.0.1:7001\"\n[cluster.tls]\ncertificate = \"a\"\nkey = \"b\"\nauthority = \"c\"";
        let section = read(tls, &members).unwrap();
        let address = &section.member(NodeId(100)).unwrap().address;
        assert_eq!(address.to_string(), "lb.example:7100");

        let plaintext = "listen = \"127.0.0.1:7001\"\nplaintext_on_loopback = true";
        let exposed = read(plaintext, &members).unwrap_err();
        assert!(
            exposed[0].contains("lb.example:7100 is not loopback"),
            "{exposed:?}"
        );
        let local = MEMBERS.replace("127.0.0.1:7100", "localhost:7100");
        read(plaintext, &local).unwrap();
        let twice = MEMBERS
            .replace("127.0.0.1:7001", "Same:1")
            .replace("127.0.0.1:7100", "same:1");
        let problems = read(tls, &twice).unwrap_err();
        assert_eq!(problems, ["cluster.member: two members have the same address"]);
    }

    #[test]
    fn the_log_may_be_kept_short() {
        let beginning = "listen = \"127.0.0.1:7001\"\nplaintext_on_loopback = true\n";
        assert_eq!(read(beginning, MEMBERS).unwrap().log, LogBounds::default());
        let short = read(
            &format!("{beginning}snapshot_after_entries = 100\nentries_kept = 0\nlog_file_bytes = 4096"),
            MEMBERS,
        );
        let expected = LogBounds {
            snapshot_after_entries: Some(100),
            entries_kept: Some(0),
            file_bytes: Some(4096),
        };
        assert_eq!(short.unwrap().log, expected);
        let too_short = read(&format!("{beginning}snapshot_after_entries = 1"), MEMBERS).unwrap_err();
        assert!(
            too_short[0].starts_with("cluster.snapshot_after_entries: "),
            "{too_short:?}"
        );
    }

    #[test]
    fn plaintext_is_refused_as_soon_as_one_address_is_not_loopback() {
        let listen = read("listen = \"0.0.0.0:7001\"\nplaintext_on_loopback = true", MEMBERS).unwrap_err();
        assert!(
            listen[0].starts_with("cluster.plaintext_on_loopback: 0.0.0.0:7001"),
            "{listen:?}"
        );
        let members = MEMBERS.replace("127.0.0.1:7100", "192.0.2.1:7100");
        let member = read(
            "listen = \"127.0.0.1:7001\"\nplaintext_on_loopback = true",
            &members,
        )
        .unwrap_err();
        assert!(
            member[0].starts_with("cluster.plaintext_on_loopback: 192.0.2.1:7100"),
            "{member:?}"
        );
    }

    #[test]
    fn certificates_are_found_beside_the_configuration_file() {
        let tls = "[cluster.tls]\ncertificate = \"a.pem\"\nkey = \"/keys/a.pem\"\nauthority = \"ca.pem\"";
        let section = read(&format!("listen = \"192.0.2.1:7001\"\n{tls}"), MEMBERS).unwrap();
        let PeerSecurity::MutualTls(files) = section.security else {
            panic!("{:?}", section.security);
        };
        assert_eq!(files.certificate, Path::new("/etc/tandem/a.pem"));
        assert_eq!(files.key, Path::new("/keys/a.pem"));
        let both = format!("listen = \"127.0.0.1:1\"\nplaintext_on_loopback = true\n{tls}");
        let contradiction = read(&both, MEMBERS).unwrap_err();
        assert_eq!(
            contradiction,
            ["cluster.plaintext_on_loopback: contradicts [cluster.tls]"]
        );
    }

    #[test]
    fn members_must_differ_and_include_this_one() {
        let members = format!(
            "{}{}",
            MEMBERS.replace("id = 1\n", "id = 2\n"),
            MEMBERS.replace("id = 1\n", "id = 3\n")
        );
        let problems = read(
            "listen = \"127.0.0.1:7001\"\nplaintext_on_loopback = true",
            &members,
        )
        .unwrap_err();
        let expected = [
            "cluster.member: this node, id 1, is not among them",
            "cluster.member: two members have the same address",
            "cluster.member: two members have the same id",
        ];
        assert_eq!(problems, expected);
    }

    #[test]
    fn an_address_at_which_nobody_can_be_reached_is_refused() {
        for (address, problem) in [
            ("0.0.0.0:7100", "stands for every address"),
            ("[::]:7100", "stands for every address"),
            ("127.0.0.1:0", "port 0"),
            ("255.255.255.255:7100", "no single machine's"),
            ("224.0.0.1:7100", "no single machine's"),
        ] {
            let members = MEMBERS.replace("127.0.0.1:7100", address);
            let problems = read(
                "listen = \"127.0.0.1:7001\"\nplaintext_on_loopback = true",
                &members,
            )
            .unwrap_err();
            assert!(
                problems
                    .iter()
                    .any(|told| told.contains("n100") && told.contains(problem)),
                "{address}: {problems:?}"
            );
        }
    }

    #[test]
    fn a_cluster_name_fits_into_a_certificate() {
        for name in ["", "Main", "a.b", "-a", "a-", "ä"] {
            let cluster = format!("name = {name:?}\nlisten = \"127.0.0.1:1\"\nplaintext_on_loopback = true");
            let problems = read(&cluster, MEMBERS).unwrap_err();
            assert!(problems[0].starts_with("cluster.name: "), "{problems:?}");
        }
    }
}
