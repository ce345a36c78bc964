//! What discovery learned of other nodes: the port and the addresses of a node name.
//!
//! Several topologies say what they know, each all of it at once. Where two name the same node, the
//! one that spoke last counts; when it is gone, the other one does again. What a writer prepares, it
//! prepares beside the readers: they wait for the exchange of one pointer at most.

use std::collections::BTreeMap;
use std::mem;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

/// Names of all topologies together; a name counts in each of them.
pub const MAX_NAMES: usize = 16_384;
/// Addresses of one node; those after them are left out.
pub const MAX_ADDRESSES: usize = 8;

/// What is known of one node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Endpoint {
    /// Where it listens; without it, the port rule tells.
    pub port: Option<NonZeroU16>,
    /// Where it is, the best first.
    pub addresses: Vec<IpAddr>,
}

/// There would be more than [`MAX_NAMES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableFull;

/// Node names, full ones (`app@host`), and their peers.
pub type Peers = BTreeMap<Arc<[u8]>, Arc<Endpoint>>;

/// The table. `T` is how its users name topologies.
///
/// ```
/// use caravan_core::peers::{Endpoint, PeerTable};
///
/// let table = PeerTable::new();
/// let endpoint = Endpoint { port: None, addresses: vec!["10.0.0.7".parse()?] };
/// assert_eq!(table.put("a topology", [(b"app@host".as_slice(), endpoint.clone())]), Ok(()));
/// assert_eq!(table.find(b"app@host").as_deref(), Some(&endpoint));
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[derive(Debug)]
pub struct PeerTable<T> {
    /// The one that spoke last stands last.
    topologies: Mutex<Vec<(T, Peers)>>,
    /// What readers see: all topologies in one.
    peers: RwLock<Arc<Peers>>,
}

impl<T> Default for PeerTable<T> {
    fn default() -> Self {
        Self {
            topologies: Mutex::default(),
            peers: RwLock::default(),
        }
    }
}

impl<T: PartialEq> PeerTable<T> {
    /// An empty table.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces all that `topology` put before; nothing changes when that would be too much. Of
    /// entries with the same name, the last counts.
    pub fn put<'a>(
        &self,
        topology: T,
        endpoints: impl IntoIterator<Item = (&'a [u8], Endpoint)>,
    ) -> Result<(), TableFull> {
        let mut entries = Peers::new();
        for (name, mut endpoint) in endpoints {
            endpoint.addresses.truncate(MAX_ADDRESSES);
            entries.insert(name.into(), Arc::new(endpoint));
        }

        let mut topologies = self.topologies.lock();
        let others = topologies.iter().filter(|(other, _)| *other != topology);
        if others.map(|(_, peers)| peers.len()).sum::<usize>() + entries.len() > MAX_NAMES {
            return Err(TableFull);
        }
        topologies.retain(|(other, _)| *other != topology);
        if !entries.is_empty() {
            topologies.push((topology, entries));
        }
        self.publish(&topologies);
        Ok(())
    }

    /// Forgets all that `topology` put.
    pub fn delete(&self, topology: &T) {
        let mut topologies = self.topologies.lock();
        topologies.retain(|(other, _)| other != topology);
        self.publish(&topologies);
    }

    /// What is known of the node with this full name.
    #[must_use]
    pub fn find(&self, name: &[u8]) -> Option<Arc<Endpoint>> {
        self.peers.read().get(name).cloned()
    }

    /// All nodes, sorted by name, as they are now.
    #[must_use]
    pub fn list(&self) -> Arc<Peers> {
        self.peers.read().clone()
    }

    fn publish(&self, topologies: &[(T, Peers)]) {
        let mut all = Peers::new();
        for (_, peers) in topologies {
            all.append(&mut peers.clone());
        }
        // The lock is free again before the old ones are dropped.
        let old = mem::replace(&mut *self.peers.write(), Arc::new(all));
        drop(old);
    }
}

#[cfg(test)]
mod tests;
