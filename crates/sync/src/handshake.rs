//! How two workers prove to each other that they belong to the same job.
//!
//! ```text
//! connector → acceptor   hello: magic, version, world, ranks of both, purpose, nonce     60 bytes
//! acceptor  → connector  its nonce                                                      32 bytes
//! connector → acceptor   HMAC-SHA256(token, "connector", hello, acceptor's nonce)       32 bytes
//! acceptor  → connector  HMAC-SHA256(token, "acceptor",  hello, acceptor's nonce)       32 bytes
//! ```
//!
//! The token never goes over the wire, a recorded proof is worth nothing because the nonces are new each time, and
//! nobody's proof can be sent back as one's own because of the role in it. Nothing else is read before the proof.
//!
//! Who can read or change what is on the wire between true workers is not kept out: frames are neither encrypted nor
//! signed. For that run the job in a network of its own, or over a tunnel.

use crate::SyncError;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::fmt;
use std::str::FromStr;

/// The secret that the workers of one job share: 32 random bytes, made by the driver and handed to every worker.
///
/// It is written and read as 64 hexadecimal digits. `Debug` does not show it, so that no log does.
#[derive(Clone, PartialEq, Eq)]
pub struct JobToken([u8; 32]);

impl JobToken {
    /// A new token. Fails where the system gives no random numbers.
    pub fn random() -> Result<Self, SyncError> {
        random_bytes().map(Self)
    }

    /// The token of these bytes, which have to be random and secret.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 64 hexadecimal digits that [`FromStr`] reads.
    pub fn to_hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl FromStr for JobToken {
    type Err = SyncError;

    fn from_str(hex: &str) -> Result<Self, SyncError> {
        let digits = hex
            .chars()
            .map(|digit| digit.to_digit(16))
            .collect::<Option<Vec<_>>>()
            .filter(|digits| digits.len() == 64)
            .ok_or(SyncError::BadToken)?;
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = (pair[0] * 16 + pair[1]) as u8;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Debug for JobToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JobToken(secret)")
    }
}

pub(crate) const NONCE_LENGTH: usize = 32;
pub(crate) const PROOF_LENGTH: usize = 32;
pub(crate) const HELLO_LENGTH: usize = 8 + 5 * 4 + NONCE_LENGTH;
const MAGIC: [u8; 8] = *b"sparknet";
/// Of the handshake, the frames and the order in which they are sent.
const VERSION: u32 = 1;

pub(crate) type Nonce = [u8; NONCE_LENGTH];

pub(crate) fn random_bytes() -> Result<[u8; 32], SyncError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| SyncError::NoRandomness {
        reason: error.to_string(),
    })?;
    Ok(bytes)
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Announcements and aborts, in both directions: one between any two workers.
    Control = 1,
    /// Values, from the connector to the acceptor: one from each worker to the next.
    Values = 2,
}

/// What a connector says first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) world: usize,
    pub(crate) connector: usize,
    pub(crate) acceptor: usize,
    pub(crate) purpose: Purpose,
    pub(crate) nonce: Nonce,
}

impl Hello {
    pub(crate) fn encode(&self) -> [u8; HELLO_LENGTH] {
        let mut bytes = [0; HELLO_LENGTH];
        bytes[..8].copy_from_slice(&MAGIC);
        // Worlds and ranks are counts of connections that a machine can have open: they fit.
        let words = [
            VERSION,
            self.world as u32,
            self.connector as u32,
            self.acceptor as u32,
            self.purpose as u32,
        ];
        for (place, word) in bytes[8..28].chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes[28..].copy_from_slice(&self.nonce);
        bytes
    }

    /// The hello in these bytes, or why whoever sent them is no worker of this version.
    pub(crate) fn decode(bytes: &[u8; HELLO_LENGTH]) -> Result<Self, String> {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        if bytes[..8] != MAGIC {
            return Err("it does not speak sparknet's protocol".to_owned());
        }
        if word(8) != VERSION {
            return Err(format!("it speaks version {} of the protocol, not {VERSION}", word(8)));
        }
        let purpose = match word(24) {
            1 => Purpose::Control,
            2 => Purpose::Values,
            other => return Err(format!("it asks for purpose {other}, which does not exist")),
        };
        let mut nonce = [0; NONCE_LENGTH];
        nonce.copy_from_slice(&bytes[28..]);
        Ok(Self {
            world: word(12) as usize,
            connector: word(16) as usize,
            acceptor: word(20) as usize,
            purpose,
            nonce,
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Connector,
    Acceptor,
}

fn mac(token: &JobToken, role: Role, hello: &[u8; HELLO_LENGTH], nonce: &Nonce) -> Hmac<Sha256> {
    // A key shorter than a block is filled up with zeros: HMAC's own rule.
    let mut key = [0; 64];
    key[..32].copy_from_slice(&token.0);
    let mut mac = Hmac::<Sha256>::new(&key.into());
    mac.update(match role {
        Role::Connector => b"sparknet connector",
        Role::Acceptor => b"sparknet acceptor ",
    });
    mac.update(hello);
    mac.update(nonce);
    mac
}

/// What only somebody who knows the token can send in this role, after this hello and this nonce of the acceptor.
pub(crate) fn proof(token: &JobToken, role: Role, hello: &[u8; HELLO_LENGTH], nonce: &Nonce) -> [u8; PROOF_LENGTH] {
    mac(token, role, hello, nonce).finalize().into_bytes().into()
}

/// Whether this is that proof. Takes as long for a wrong one whatever is wrong in it.
pub(crate) fn is_proof(given: &[u8], token: &JobToken, role: Role, hello: &[u8; HELLO_LENGTH], nonce: &Nonce) -> bool {
    mac(token, role, hello, nonce).verify_slice(given).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Hello {
        Hello {
            world: 7,
            connector: 3,
            acceptor: 2,
            purpose: Purpose::Values,
            nonce: [9; 32],
        }
    }

    #[test]
    fn a_hello_survives_its_encoding() {
        assert_eq!(Hello::decode(&hello().encode()), Ok(hello()));
        assert!(Hello::decode(&[b'G'; HELLO_LENGTH]).is_err());
        let mut newer = hello().encode();
        newer[8] = 2;
        let reason = "it speaks version 2 of the protocol, not 1".to_owned();
        assert_eq!(Hello::decode(&newer), Err(reason));
    }

    #[test]
    fn a_proof_is_of_one_token_role_hello_and_nonce() {
        let (token, bytes, nonce) = (JobToken([1; 32]), hello().encode(), [5; 32]);
        let good = proof(&token, Role::Connector, &bytes, &nonce);
        assert!(is_proof(&good, &token, Role::Connector, &bytes, &nonce));
        assert!(!is_proof(&good, &JobToken([2; 32]), Role::Connector, &bytes, &nonce));
        assert!(!is_proof(&good, &token, Role::Acceptor, &bytes, &nonce));
        assert!(!is_proof(&good, &token, Role::Connector, &bytes, &[6; 32]));
        for at in 0..bytes.len() {
            let mut other = bytes;
            other[at] ^= 1;
            assert!(!is_proof(&good, &token, Role::Connector, &other, &nonce), "byte {at}");
        }
    }

    #[test]
    fn tokens_are_read_as_they_are_written_and_never_shown() {
        let token = JobToken::random().unwrap();
        assert_eq!(token.to_hex().parse(), Ok(token.clone()));
        assert_ne!(token, JobToken::random().unwrap());
        assert_eq!(format!("{token:?}"), "JobToken(secret)");
        for wrong in ["", "12", &"g".repeat(64), &"é".repeat(32), &"0".repeat(66)] {
            assert_eq!(wrong.parse::<JobToken>(), Err(SyncError::BadToken));
        }
    }
}
