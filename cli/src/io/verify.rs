//! `tandem pki verify`: the certificates that a configuration names, as those who are shown them would judge.

use std::error::Error;
use std::path::Path;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::CertifiedKey;
use tandem_certificate::{Status, judge_own, read_bundle};
use tandem_cluster::NodeId;
use tandem_runtime::certificate_holder::{check_peer, member_name, peer_identity};
use tandem_runtime::config::{ClusterSection, PeerSecurity, TlsFiles, read_file};
use tandem_runtime::io::certificates::with_causes;
use tandem_runtime::io::command_line::Outcome;
use tandem_runtime::io::sip_tls::SipTls;
use tandem_runtime::io::tls::{PeerVerifier, peer_server_config};

use super::config_check::{CheckError, kind_of};
use super::{files, now};
use crate::configuration::kind::FileKind;
use crate::pki::authority::AuthorityKind;
use crate::pki::verdict::{Contents, Facts, FileMode, Mark, judge, write};

/// A paragraph for each certificate; not well when one of them is not right.
pub(super) fn verify(path: &Path, coloured: bool) -> Result<Outcome, CheckError> {
    let facts = match kind_of(path)? {
        FileKind::FrontEnd => of_front_end(&read_file(path, tandem_lb::config::Config::read)?),
        FileKind::Node => of_node(&read_file(path, tandem_node::config::read)?),
        FileKind::Directory => Vec::new(),
    };
    if facts.is_empty() {
        return Ok(Outcome::well(format!("{} names no certificate.", path.display())));
    }
    let now = now().unix_timestamp();
    let mut outcome = Outcome::well("");
    for facts in &facts {
        let findings = judge(facts, now);
        outcome.well &= findings.iter().all(|finding| finding.mark != Mark::Wrong);
        outcome.text.push_str(&write(&facts.section, &findings, coloured));
    }
    Ok(outcome)
}

fn of_front_end(config: &tandem_lb::config::Config) -> Vec<Facts> {
    let cluster = config.cluster.iter();
    let mut facts: Vec<Facts> = cluster
        .filter_map(|cluster| of_member(&cluster.section, cluster.member_id))
        .collect();
    for listener in &config.listeners {
        if let Some(tls) = &listener.tls {
            let checked = SipTls::check(tls).map_err(|error| with_causes(&error));
            let section = format!("listener {}", listener.name);
            let (certificate, key) = (&tls.files.certificate, &tls.files.key);
            facts.push(of_service(section, certificate, key, checked));
        }
    }
    facts
}

fn of_node(config: &tandem_node::config::Config) -> Vec<Facts> {
    let mut facts: Vec<Facts> = of_member(&config.cluster, config.id).into_iter().collect();
    let push = config
        .exchange
        .as_ref()
        .and_then(|exchange| exchange.push.as_ref());
    if let Some(pair) = push.and_then(|push| push.certificate.as_ref()) {
        let checked = belong_together(&pair.certificate, &pair.key);
        let section = "exchange.push".to_owned();
        facts.push(of_service(section, &pair.certificate, &pair.key, checked));
    }
    facts
}

/// Nothing to say in plaintext.
fn of_member(cluster: &ClusterSection, id: NodeId) -> Option<Facts> {
    let PeerSecurity::MutualTls(tls) = &cluster.security else {
        return None;
    };
    let chain = read_chain(&tls.certificate).unwrap_or_default();
    let key = peer_server_config(tls)
        .map(drop)
        .map_err(|error| with_causes(&error));
    let name = chain.first().map(|own| {
        let checked = check_peer(own, id, &cluster.name).map_err(|error| with_causes(&error));
        checked.map(|()| member_name(id, &cluster.name))
    });
    Some(Facts {
        section: "cluster.tls".to_owned(),
        key,
        chain: accepted_by_peers(tls, &chain),
        name,
        not_after: end_of(&tls.certificate),
        files: modes(
            &tls.key,
            [&tls.certificate, &tls.authority]
                .into_iter()
                .chain(&tls.revocation_list),
        ),
    })
}

/// Whether the members' authority has signed it, for both ends of a connection. Its name is another question.
fn accepted_by_peers(tls: &TlsFiles, chain: &[CertificateDer<'static>]) -> Result<(), String> {
    let verifier = PeerVerifier::load(tls).map_err(|error| with_causes(&error))?;
    verifier
        .check_client(chain)
        .map_err(|error| format!("members that it connects to would refuse it: {error}"))?;
    let shown = chain.first().and_then(|own| peer_identity(own).ok());
    let names = shown
        .map(|shown| shown.subject_alternative_names)
        .unwrap_or_default();
    let name = names.into_iter().find_map(|name| ServerName::try_from(name).ok());
    let name = name.ok_or("it names no host: issue it again")?;
    verifier
        .check_server(chain, &name)
        .map_err(|error| format!("members that connect to it would refuse it: {error}"))
}

fn of_service(section: String, certificate: &Path, key: &Path, checked: Result<(), String>) -> Facts {
    let contents = files::read(certificate).map_err(|error| with_causes(&error));
    let chain = contents.and_then(|contents| read_bundle(&contents).map_err(|error| with_causes(&error)));
    let judged = chain.and_then(|chain| {
        // `tandem pki issue` has put its authority there.
        let beside = files::read(&certificate.with_file_name(AuthorityKind::Service.bundle())).ok();
        let known = beside.and_then(|contents| read_bundle(&contents).ok());
        let verdict = judge_own(&chain, &known.unwrap_or_default(), now().unix_timestamp());
        match verdict.status == Status::Verified {
            true => Ok(()),
            false => Err(verdict.explanation),
        }
    });
    Facts {
        section,
        key: checked,
        chain: judged,
        name: None,
        not_after: end_of(certificate),
        files: modes(key, [certificate]),
    }
}

/// Exchange shows no certificate of its own when it calls back, so there is nothing else to read.
fn belong_together(certificate: &Path, key: &Path) -> Result<(), String> {
    let chain = read_chain(certificate).map_err(|error| with_causes(&error))?;
    let unusable = |error: &dyn Error| format!("{} cannot be used: {}", key.display(), with_causes(error));
    let key = PrivateKeyDer::from_pem_file(key).map_err(|error| unusable(&error))?;
    let provider = rustls::crypto::ring::default_provider();
    let pair = CertifiedKey::from_der(chain, key, &provider);
    pair.map(drop).map_err(|error| unusable(&error))
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, pem::Error> {
    CertificateDer::pem_file_iter(path)?.collect()
}

fn end_of(path: &Path) -> Option<i64> {
    let certificates = read_bundle(&files::read(path).ok()?).ok()?;
    Some(certificates.first()?.not_after)
}

fn modes<P: AsRef<Path>>(key: &Path, public: impl IntoIterator<Item = P>) -> Vec<FileMode> {
    let file = |path: &Path, contents| FileMode {
        path: path.to_path_buf(),
        mode: files::mode(path),
        contents,
    };
    let public = public
        .into_iter()
        .map(|path| file(path.as_ref(), Contents::Public));
    std::iter::once(file(key, Contents::Key)).chain(public).collect()
}
