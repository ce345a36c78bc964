//! The parsed files of one configuration.

use std::path::Path;
use std::sync::Arc;

use futures_util::future::try_join4;
use tokio::time::Instant;

use super::LookupError;
use super::config::ResolverConfig;
use super::dnssec::{TrustAnchors, parse_trust_anchors};
use super::file_stamp::ConfigStamp;
use super::files::{FileStamps, Files, or_bad_file, or_empty};
use super::hosts::Hosts;
use super::system_config::{HOSTS, RESOLV_CONF, SystemConfig};
#[cfg(feature = "tls")]
use super::tls::TlsConfig;

/// The files of all configurations. A file that several configurations name is in memory once.
pub struct SharedFiles {
    stamps: FileStamps,
    resolv_conf: Files<SystemConfig>,
    hosts: Files<Hosts>,
    #[cfg(feature = "tls")]
    ca_files: Files<TlsConfig>,
    trust_anchors: Files<TrustAnchors>,
}

/// The contents of the files of one configuration.
pub struct ResolverFiles {
    /// The stamps that the files had before they were read.
    pub stamp: ConfigStamp,
    /// The two system files, if the configuration has no nameservers.
    pub system: Option<(Arc<SystemConfig>, Arc<Hosts>)>,
    #[cfg(feature = "tls")]
    pub tls: Arc<TlsConfig>,
    pub trust_anchors: Arc<TrustAnchors>,
}

/// Returns whether lookups with `config` need files.
pub fn needs_files(config: &ResolverConfig) -> bool {
    paths(config).iter().any(Option::is_some)
}

/// Returns the paths of the files, in the order of [`ConfigStamp`].
fn paths(config: &ResolverConfig) -> [Option<&Path>; 4] {
    let dnssec = config.dnssec.as_ref();
    [
        config.is_system().then_some(Path::new(RESOLV_CONF)),
        config.is_system().then_some(Path::new(HOSTS)),
        config.ca_file.as_deref(),
        dnssec.and_then(|dnssec| dnssec.trust_anchors.as_deref()),
    ]
}

impl SharedFiles {
    pub fn new() -> Self {
        Self {
            stamps: FileStamps::default(),
            resolv_conf: Files::new(|path, read| Ok(SystemConfig::parse(&or_empty(path, read)?))),
            hosts: Files::new(|path, read| Ok(Hosts::new(or_empty(path, read)?))),
            #[cfg(feature = "tls")]
            ca_files: Files::new(|path, read| TlsConfig::parse(&or_bad_file(path, read)?)),
            trust_anchors: Files::new(|path, read| parse_trust_anchors(or_bad_file(path, read)?)),
        }
    }

    /// Returns the stamps of the files of `config`, with all changes from before the call.
    pub async fn stamp(
        &self,
        config: &ResolverConfig,
        deadline: Instant,
    ) -> Result<ConfigStamp, LookupError> {
        let stamp = async |path: Option<&Path>| match path {
            Some(path) => self.stamps.stamp(path, deadline).await,
            None => Ok(None),
        };
        let [resolv_conf, hosts, ca_file, trust_anchors] = paths(config).map(stamp);
        let (resolv_conf, hosts, ca_file, trust_anchors) =
            try_join4(resolv_conf, hosts, ca_file, trust_anchors).await?;
        Ok([resolv_conf, hosts, ca_file, trust_anchors])
    }

    /// Returns the contents of the files of `config`, which had the stamps `stamp` when the lookup started.
    pub async fn load(
        &self,
        config: &ResolverConfig,
        stamp: ConfigStamp,
        deadline: Instant,
    ) -> Result<ResolverFiles, LookupError> {
        let [resolv_conf, hosts, ca_file, trust_anchors] = stamp;
        let mut stamp = ConfigStamp::default();
        let [
            resolv_conf_read,
            hosts_read,
            ca_file_read,
            trust_anchors_read,
        ] = &mut stamp;
        let system = if config.is_system() {
            let path = Path::new(RESOLV_CONF);
            let system = self.resolv_conf.load(path, resolv_conf, deadline).await?;
            *resolv_conf_read = system.stamp;
            let hosts = self.hosts.load(Path::new(HOSTS), hosts, deadline).await?;
            *hosts_read = hosts.stamp;
            Some((system.content, hosts.content))
        } else {
            None
        };
        #[cfg(feature = "tls")]
        let tls = match &config.ca_file {
            None => Arc::new(TlsConfig::built_in()?),
            Some(path) => {
                let tls = self.ca_files.load(path, ca_file, deadline).await?;
                *ca_file_read = tls.stamp;
                tls.content
            }
        };
        #[cfg(not(feature = "tls"))]
        {
            *ca_file_read = ca_file;
        }
        let anchors = config.dnssec.as_ref();
        let trust_anchors = match anchors.and_then(|dnssec| dnssec.trust_anchors.as_ref()) {
            None => Arc::default(),
            Some(path) => {
                let anchors = self
                    .trust_anchors
                    .load(path, trust_anchors, deadline)
                    .await?;
                *trust_anchors_read = anchors.stamp;
                anchors.content
            }
        };
        Ok(ResolverFiles {
            stamp,
            system,
            #[cfg(feature = "tls")]
            tls,
            trust_anchors,
        })
    }
}
