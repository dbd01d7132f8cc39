//! `tandem pki`, as an administrator uses it.
#![allow(clippy::unwrap_used, reason = "a test stops where it finds something")]

mod program;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use program::{read, refused, succeeds, tandem};
use tandem_certificate::{Certificate, read_bundle};
use tandem_cluster::NodeId;
use tandem_runtime::config::TlsFiles;
use tandem_runtime::io::tls::check_member_certificate;

/// The authorities of `office` in a folder of their own.
fn office() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    succeeds(folder.path(), "pki init --cluster office --out ca");
    folder
}

fn certificate(path: &Path) -> Certificate {
    read_bundle(&std::fs::read(path).unwrap()).unwrap().remove(0)
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn member_files(folder: &Path) -> TlsFiles {
    TlsFiles {
        certificate: folder.join("peer.pem"),
        key: folder.join("peer.key"),
        authority: folder.join("peer-ca.pem"),
        revocation_list: None,
    }
}

#[test]
fn keys_are_their_owners_alone_and_never_overwritten() {
    let folder = office();
    let ca = folder.path().join("ca");
    assert_eq!(
        (
            mode(&ca),
            mode(&ca.join("peers.key")),
            mode(&ca.join("service.key"))
        ),
        (0o700, 0o600, 0o600)
    );
    let key = read(&ca.join("peers.key"));
    let again = refused(folder.path(), "pki init --cluster office --out ca");
    assert!(
        again.contains("peers.key exists and is not overwritten"),
        "{again}"
    );
    assert_eq!(read(&ca.join("peers.key")), key);

    succeeds(&ca, "pki issue --member 1");
    assert_eq!(mode(&ca.join("n1/peer.key")), 0o600);
    let key = read(&ca.join("n1/peer.key"));
    refused(&ca, "pki issue --member 1");
    assert_eq!(read(&ca.join("n1/peer.key")), key);
}

#[test]
fn members_accept_each_other_and_nobody_else() {
    let folder = office();
    let ca = folder.path().join("ca");
    succeeds(
        &ca,
        "pki issue --member 1 --san 192.0.2.21 --san one.office.tandem",
    );
    let files = member_files(&ca.join("n1"));
    check_member_certificate(&files, NodeId(1), "office").unwrap();
    check_member_certificate(&files, NodeId(2), "office").unwrap_err();
    let issued = certificate(&files.certificate);
    assert_eq!(issued.names.dns_names, ["n1.office.tandem", "one.office.tandem"]);
    assert_eq!((issued.not_after - issued.not_before) / 86_400, 825);

    let outside = refused(&ca, "pki issue --member 2 --san two.example.com");
    assert!(outside.contains("under office.tandem alone"), "{outside}");
    // What the service authority signs is no member, whatever it is called.
    succeeds(&ca, "pki issue --vip n3.office.tandem --out n3");
    let disguised = TlsFiles {
        certificate: ca.join("n3/vip.pem"),
        key: ca.join("n3/vip.key"),
        authority: ca.join("peer-ca.pem"),
        revocation_list: None,
    };
    check_member_certificate(&disguised, NodeId(3), "office").unwrap_err();
}

/// Another implementation checks the chain, and the name constraint with it.
#[test]
fn openssl_agrees() {
    if Command::new("openssl").arg("version").output().is_err() {
        println!("SKIPPED: openssl is not on this machine");
        assert!(
            std::env::var_os("CI").is_none(),
            "openssl is missing, and nothing is skipped in CI"
        );
        return;
    }
    let folder = office();
    let ca = folder.path().join("ca");
    succeeds(&ca, "pki issue --member 1");
    succeeds(&ca, "pki issue --vip rcc.example.com 192.0.2.10");
    let verifies = |authority: &str, file: &str, purpose: &str| {
        let mut command = Command::new("openssl");
        command.args(["verify", "-purpose", purpose, "-CAfile", authority, file]);
        command.current_dir(&ca).output().unwrap().status.success()
    };
    for purpose in ["sslserver", "sslclient"] {
        assert!(verifies("peers.pem", "n1/peer.pem", purpose), "{purpose}");
        assert!(verifies("service.pem", "vip/vip.pem", purpose), "{purpose}");
    }
    assert!(!verifies("peers.pem", "vip/vip.pem", "sslserver"));
}

#[test]
fn a_request_is_signed_without_its_key() {
    let folder = office();
    let ca = folder.path().join("ca");
    succeeds(
        folder.path(),
        "pki csr --member 2 --cluster office --san 192.0.2.22 --out n2",
    );
    assert_eq!(mode(&folder.path().join("n2/peer.key")), 0o600);
    succeeds(folder.path(), "pki sign n2/peer.csr --authorities ca");
    check_member_certificate(&member_files(&folder.path().join("n2")), NodeId(2), "office").unwrap();

    succeeds(folder.path(), "pki csr --admin ana --role operate --out ana");
    let not_granted = refused(folder.path(), "pki sign ana/ana.csr --authorities ca");
    assert!(not_granted.contains("tandem:role:operate"), "{not_granted}");
    refused(
        folder.path(),
        "pki sign ana/ana.csr --authorities ca --role administer",
    );
    succeeds(
        folder.path(),
        "pki sign ana/ana.csr --authorities ca --role operate",
    );
    let ana = certificate(&folder.path().join("ana/ana.pem"));
    assert!(ana.usages.client_auth && !ana.usages.server_auth);
    let shown = succeeds(folder.path(), "pki show ana/ana.pem");
    assert!(shown.contains("names    tandem:role:operate"), "{shown}");

    std::fs::write(ca.join("broken.csr"), "no request").unwrap();
    let broken = refused(&ca, "pki sign broken.csr");
    assert!(broken.contains("tandem pki csr"), "{broken}");
}

#[test]
fn a_member_is_renewed_with_its_names_and_its_former_key_is_kept() {
    let folder = office();
    let ca = folder.path().join("ca");
    succeeds(&ca, "pki issue --member 1 --san 192.0.2.21");
    let former = (
        certificate(&ca.join("n1/peer.pem")),
        read(&ca.join("n1/peer.key")),
    );
    succeeds(&ca, "pki renew --member 1");
    check_member_certificate(&member_files(&ca.join("n1")), NodeId(1), "office").unwrap();
    let new = certificate(&ca.join("n1/peer.pem"));
    assert_eq!(new.names, former.0.names);
    assert_ne!(new.serial, former.0.serial);
    assert_ne!(read(&ca.join("n1/peer.key")), former.1);
    assert_eq!(read(&ca.join("n1/peer.key.1")), former.1);
    refused(&ca, "pki renew --member 2");
    let other = refused(&ca, "pki renew --member 2 --out n1");
    assert!(other.contains("not the certificate of member n2"), "{other}");
}

#[test]
fn an_authority_is_replaced_without_a_gap() {
    let folder = office();
    let ca = folder.path().join("ca");
    succeeds(&ca, "pki issue --member 1");
    succeeds(&ca, "pki init --renew peers --out .");
    succeeds(&ca, "pki issue --member 2");
    // While the bundle is on its way: a member that has it accepts both, whichever it shows itself.
    let old = TlsFiles {
        authority: ca.join("peer-ca.pem"),
        ..member_files(&ca.join("n1"))
    };
    check_member_certificate(&old, NodeId(1), "office").unwrap();
    check_member_certificate(&member_files(&ca.join("n2")), NodeId(2), "office").unwrap();
    // Those that have not got it yet refuse the new ones, which therefore come second.
    let too_early = TlsFiles {
        authority: ca.join("peers.pem.1"),
        ..member_files(&ca.join("n2"))
    };
    check_member_certificate(&too_early, NodeId(2), "office").unwrap_err();

    succeeds(&ca, "pki renew --member 1");
    let at_the_end = TlsFiles {
        authority: ca.join("peers.pem"),
        ..member_files(&ca.join("n1"))
    };
    check_member_certificate(&at_the_end, NodeId(1), "office").unwrap();
    let issuers = read_bundle(&std::fs::read(ca.join("peer-ca.pem")).unwrap()).unwrap();
    assert_eq!(issuers.len(), 2);
    assert!(ca.join("peers.key.1").exists());

    succeeds(&ca, "pki init --renew service --out .");
    let issuers = read_bundle(&std::fs::read(ca.join("service-ca.pem")).unwrap()).unwrap();
    assert_eq!(issuers.len(), 2);
}

#[test]
fn show_tells_what_certificates_say() {
    let folder = office();
    let ca = folder.path().join("ca");
    succeeds(&ca, "pki issue --vip rcc.example.com 192.0.2.10");
    let shown = succeeds(&ca, "pki show vip/vip.pem peers.pem");
    for line in [
        "subject  CN=rcc.example.com",
        "names    rcc.example.com, 192.0.2.10",
        "issuer   CN=Tandem office service ",
        "usages   servers and clients",
        "usages   signs certificates",
    ] {
        assert!(shown.contains(line), "{line}:\n{shown}");
    }
    // The clock may have gone on by a second.
    assert!(
        ["(824 days left)", "(825 days left)"]
            .iter()
            .any(|days| shown.contains(days)),
        "{shown}"
    );
    let missing = tandem(&ca, "pki show vip/vip.pem nothing.pem");
    assert_eq!(missing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&missing.stdout).contains("rcc.example.com"));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("nothing.pem"));
}

/// One thing is wrong at a time.
#[test]
fn verify_finds_what_is_not_right() {
    let folder = office();
    let ca = folder.path().join("ca");
    let machines = "--vip 127.0.0.1 --lb 127.0.0.1 --node 127.0.0.2 --node 127.0.0.3 --cti 127.0.0.4:8000";
    std::fs::create_dir(folder.path().join("new")).unwrap();
    std::fs::rename(&ca, folder.path().join("new/authorities")).unwrap();
    succeeds(
        folder.path(),
        &format!("config init --cluster office {machines} --out new"),
    );
    let node = folder.path().join("new/node-1");
    for machine in ["lb-1/lb.toml", "node-1/node.toml", "node-2/node.toml"] {
        let verdict = succeeds(
            &folder.path().join("new"),
            &format!("pki verify --config {machine}"),
        );
        assert!(
            verdict.contains("✓ chain") && verdict.contains("✓ name"),
            "{verdict}"
        );
        assert!(!verdict.contains('\u{1b}'), "no terminal, no colours");
    }
    let verdict = || {
        let output = tandem(&node, "pki verify --config node.toml");
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let peer = |name: &str| node.join(name);
    let other = |name: &str| folder.path().join("new/node-2").join(name);

    std::fs::set_permissions(peer("peer.key"), std::fs::Permissions::from_mode(0o644)).unwrap();
    let exposed = verdict();
    assert!(
        exposed.contains("✗ mode") && exposed.contains("chmod 600"),
        "{exposed}"
    );
    std::fs::remove_file(peer("peer.key")).unwrap();
    std::fs::copy(other("peer.key"), peer("peer.key")).unwrap();
    let mismatch = verdict();
    assert!(
        mismatch.contains("✗ key") && mismatch.contains("✓ name"),
        "{mismatch}"
    );
    std::fs::copy(other("peer.pem"), peer("peer.pem")).unwrap();
    let misnamed = verdict();
    assert!(
        misnamed.contains("✓ key") && misnamed.contains("✗ name"),
        "{misnamed}"
    );
    std::fs::copy(
        folder.path().join("new/authorities/service.pem"),
        peer("peer-ca.pem"),
    )
    .unwrap();
    let unknown = verdict();
    assert!(unknown.contains("✗ chain"), "{unknown}");
}

#[test]
fn verify_looks_at_listeners_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let machines = "--vip 127.0.0.1 --lb 127.0.0.1 --node 127.0.0.2 --cti 127.0.0.4:8000";
    succeeds(
        folder.path(),
        &format!("config init --cluster office {machines} --out new"),
    );
    let new = folder.path().join("new");
    succeeds(
        &new,
        "pki issue --vip rcc.example.com --authorities authorities --out lb-1",
    );
    let listener = "[[listener]]\nname = \"ocs-tls\"\naddress = \"127.0.0.1:5062\"\ntransport = \"tls\"\n\
                    certificate = \"vip.pem\"\nkey = \"vip.key\"\nclient_authority = \"service-ca.pem\"\n";
    let file = new.join("lb-1/lb.toml");
    std::fs::write(&file, format!("{}\n{listener}", read(&file))).unwrap();
    succeeds(&new, "config check lb-1/lb.toml");
    let verdict = succeeds(&new, "pki verify --config lb-1/lb.toml");
    assert!(
        verdict.contains("listener ocs-tls") && !verdict.contains('✗'),
        "{verdict}"
    );
    std::fs::copy(new.join("lb-1/peer.key"), new.join("lb-1/vip.key")).unwrap();
    let mismatch = tandem(&new, "pki verify --config lb-1/lb.toml");
    assert_eq!(mismatch.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&mismatch.stdout).contains("✗ key"),
        "{mismatch:?}"
    );
}
