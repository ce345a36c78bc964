//! The table of discovered nodes: the port and the addresses of each node name.
//!
//! Each topology puts all its entries at once. If two topologies have the same node, the later put wins, for the port and
//! for the addresses separately. An entry without a port, or without addresses, leaves those of the earlier put. When a
//! topology is deleted, the entry of the other one is used again.
//!
//! Readers wait only for short changes. A put and a delete prepare a new table without a lock on the old one, and then
//! replace one pointer. [`PeerTable::rotate`] changes the entries of one name in place. The entries are shared by the
//! tables of the topologies, the table for readers, and the lists that readers hold. So all of them see this change.

use std::collections::BTreeMap;
use std::mem;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

/// Maximum number of entries over all topologies. A name counts once in each topology.
pub const MAX_NAMES: usize = 16_384;
/// Maximum number of addresses of one node. Further addresses are left out.
pub const MAX_ADDRESSES: usize = 16;

/// The port and the addresses of one node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Endpoint {
    /// The distribution port. If `None`, the port follows from the port rule.
    pub port: Option<NonZeroU16>,
    /// The addresses, best first.
    pub addresses: Vec<IpAddr>,
}

/// The table would have more than [`MAX_NAMES`] entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableFull;

/// Entries by full node name (`app@host`).
pub type Peers = BTreeMap<Arc<[u8]>, Entry>;

/// The entry of a node. Its addresses can be rotated. Clones share them.
#[derive(Debug, Clone)]
pub struct Entry {
    port: Option<NonZeroU16>,
    /// `None` if there are no addresses.
    addresses: Option<Arc<RwLock<Vec<IpAddr>>>>,
}

impl Entry {
    fn new(endpoint: Endpoint) -> Self {
        let mut addresses = endpoint.addresses;
        addresses.truncate(MAX_ADDRESSES);
        Self {
            port: endpoint.port,
            addresses: (!addresses.is_empty()).then(|| Arc::new(RwLock::new(addresses))),
        }
    }

    /// Returns the endpoint as it is now.
    #[must_use]
    pub fn endpoint(&self) -> Endpoint {
        Endpoint {
            port: self.port,
            addresses: self
                .addresses
                .as_ref()
                .map(|addresses| addresses.read().clone())
                .unwrap_or_default(),
        }
    }

    fn rotate(&self) {
        if let Some(addresses) = &self.addresses {
            addresses.write().rotate_left(1);
        }
    }

    /// Returns whether the entry lacks a port or addresses.
    fn is_partial(&self) -> bool {
        self.port.is_none() || self.addresses.is_none()
    }

    /// Takes from an earlier entry of the same node what this one lacks.
    fn complete(&mut self, earlier: &Self) {
        self.port = self.port.or(earlier.port);
        if self.addresses.is_none() {
            self.addresses.clone_from(&earlier.addresses);
        }
    }
}

/// The table. `T` is the type of topology names.
///
/// ```
/// use caravan_core::peers::{Endpoint, PeerTable};
///
/// let table = PeerTable::new();
/// let endpoint = Endpoint { port: None, addresses: vec!["10.0.0.7".parse()?] };
/// assert_eq!(table.put("a topology", [(b"app@host".as_slice(), endpoint.clone())]), Ok(()));
/// assert_eq!(table.find(b"app@host"), Some(endpoint));
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[derive(Debug)]
pub struct PeerTable<T> {
    /// In the order of their last put.
    topologies: Mutex<Vec<(T, Peers)>>,
    /// The entries of all topologies, for readers.
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
    /// Returns an empty table.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces all entries of `topology`. Of entries with the same name, the last is used. If the table would be too
    /// large, it stays as it is.
    pub fn put<'a>(
        &self,
        topology: T,
        endpoints: impl IntoIterator<Item = (&'a [u8], Endpoint)>,
    ) -> Result<(), TableFull> {
        let entries: Peers = endpoints
            .into_iter()
            .map(|(name, endpoint)| (name.into(), Entry::new(endpoint)))
            .collect();

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

    /// Deletes all entries of `topology`.
    pub fn delete(&self, topology: &T) {
        let mut topologies = self.topologies.lock();
        topologies.retain(|(other, _)| other != topology);
        self.publish(&topologies);
    }

    /// Moves the first address of a node to the end. A topology that has the node keeps the new order until its next
    /// put.
    pub fn rotate(&self, name: &[u8]) {
        let topologies = self.topologies.lock();
        for entry in topologies.iter().filter_map(|(_, peers)| peers.get(name)) {
            entry.rotate();
        }
    }

    /// Returns the endpoint of the node with this full name.
    #[must_use]
    pub fn find(&self, name: &[u8]) -> Option<Endpoint> {
        self.peers.read().get(name).map(Entry::endpoint)
    }

    /// Returns the entry that counts for each name, sorted by name. Later rotations change the addresses of these
    /// entries.
    #[must_use]
    pub fn list(&self) -> Arc<Peers> {
        self.peers.read().clone()
    }

    fn publish(&self, topologies: &[(T, Peers)]) {
        let mut all = Peers::new();
        for (_, peers) in topologies {
            let mut later = peers.clone();
            for (name, entry) in later.iter_mut().filter(|(_, entry)| entry.is_partial()) {
                if let Some(earlier) = all.get(name) {
                    entry.complete(earlier);
                }
            }
            all.append(&mut later);
        }
        // Dropping the old table takes long, so it happens when readers no longer wait for the lock.
        let old = mem::replace(&mut *self.peers.write(), Arc::new(all));
        drop(old);
    }
}

#[cfg(test)]
mod tests;
