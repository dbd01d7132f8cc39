//! A certification authority with everything that one can do wrong, and the servers that show what it issued.

use std::net::SocketAddr;
use std::path::Path;

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    SanType,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::openssl::OpensslServer;

/// A root, an authority below it that issues, and what it has issued.
pub struct Chain {
    pub root: Authority,
    pub issuing: Authority,
}

pub struct Authority {
    pub issuer: Issuer<'static, KeyPair>,
    pub pem: String,
}

impl Default for Chain {
    fn default() -> Self {
        Self::new()
    }
}

impl Chain {
    #[must_use]
    pub fn new() -> Self {
        Self::named("Contoso")
    }

    #[must_use]
    pub fn named(company: &str) -> Self {
        let root = Authority::new(&format!("{company} Root"), None);
        let issuing = Authority::new(&format!("{company} Issuing"), Some(&root));
        Self { root, issuing }
    }

    #[must_use]
    pub fn issue(&self, common_name: &str, names: &[&str]) -> Leaf {
        self.issue_with(common_name, names, |_| {})
    }

    #[must_use]
    pub fn issue_with(
        &self,
        common_name: &str,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Leaf {
        let mut params = leaf_params(common_name, names);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuing.issuer).unwrap();
        Leaf::written(&certificate.pem(), &key, &self.issuing.pem)
    }
}

impl Authority {
    fn new(name: &str, above: Option<&Self>) -> Self {
        let mut params = leaf_params(name, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = match above {
            Some(above) => params.signed_by(&key, &above.issuer),
            None => params.self_signed(&key),
        };
        Self {
            pem: certificate.unwrap().pem(),
            issuer: Issuer::new(params, key),
        }
    }
}

/// What a server shows, in files.
pub struct Leaf {
    directory: TempDir,
}

impl Leaf {
    fn written(certificate: &str, key: &KeyPair, chain: &str) -> Self {
        let directory = TempDir::new().unwrap();
        let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
        write("leaf.pem", certificate);
        write("leaf.key", &key.serialize_pem());
        write("chain.pem", chain);
        Self { directory }
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    #[must_use]
    pub fn pem(&self) -> String {
        std::fs::read_to_string(self.path().join("leaf.pem")).unwrap()
    }

    #[must_use]
    pub fn without_chain(self) -> Self {
        std::fs::remove_file(self.path().join("chain.pem")).unwrap();
        self
    }

    #[must_use]
    pub fn with_root(self, chain: &Chain) -> Self {
        let text = format!("{}{}", chain.issuing.pem, chain.root.pem);
        std::fs::write(self.path().join("chain.pem"), text).unwrap();
        self
    }

    pub async fn serve(&self, options: &[&str]) -> OpensslServer {
        let mut all = vec!["-cert", "leaf.pem", "-key", "leaf.key"];
        if self.path().join("chain.pem").exists() {
            all = vec![
                "-cert",
                "leaf.pem",
                "-key",
                "leaf.key",
                "-cert_chain",
                "chain.pem",
            ];
        }
        all.extend(options);
        OpensslServer::start(self.path(), &all).await
    }
}

/// As Exchange makes one for itself when it is installed.
#[must_use]
pub fn self_signed(common_name: &str, name: &str) -> Leaf {
    let key = KeyPair::generate().unwrap();
    let certificate = leaf_params(common_name, &[name]).self_signed(&key).unwrap();
    Leaf::written(&certificate.pem(), &key, "").without_chain()
}

fn leaf_params(common_name: &str, names: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    if !common_name.is_empty() {
        params.distinguished_name.push(DnType::CommonName, common_name);
    }
    params.use_authority_key_identifier_extension = true;
    params.subject_alt_names = names
        .iter()
        .map(|name| match name.parse() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(Ia5String::try_from(*name).unwrap()),
        })
        .collect();
    params
}

/// Authority information access (RFC 5280 §4.2.2.1) with one place for the issuer.
#[must_use]
pub fn issuer_at(url: &str) -> CustomExtension {
    let tagged =
        |tag: u8, contents: &[u8]| [&[tag, u8::try_from(contents.len()).unwrap()], contents].concat();
    let ca_issuers = tagged(0x06, &[0x2b, 6, 1, 5, 5, 7, 0x30, 2]);
    let location = tagged(0x86, url.as_bytes());
    let description = tagged(0x30, &[ca_issuers, location].concat());
    CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 1, 1], tagged(0x30, &description))
}

/// Answers every request for this path with the content.
pub async fn serve_http(path: &'static str, content: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 1024];
            let read = stream.read(&mut request).await.unwrap_or_default();
            let asked = request[..read].starts_with(format!("GET {path} ").as_bytes());
            let code = if asked { "200 OK" } else { "404 Not Found" };
            let head = format!("HTTP/1.1 {code}\r\nContent-Length: {}\r\n\r\n", content.len());
            let _ = stream.write_all(&[head.as_bytes(), &content].concat()).await;
        }
    });
    address
}
