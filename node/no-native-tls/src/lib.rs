//! Stands in for the crate `native-tls` (see `[patch.crates-io]` in the workspace).
//!
//! The engine of the embedded node (milli-core) depends on clients of embedding services and,
//! through them, on `native-tls` and OpenSSL. The node refuses embedders that call services, so
//! none of that ever runs; but building it would ask for OpenSSL's headers, or for Perl and
//! minutes of compiling. This crate has the same types and no TLS: a connector can be made,
//! its handshake fails, and streams and certificates are types without values.
//!
//! Miroir's own TLS is rustls.

use std::convert::Infallible;
use std::error;
use std::fmt;
use std::io;
use std::marker::PhantomData;

/// As in `native-tls`.
pub type Result<T> = std::result::Result<T, Error>;

/// TLS was asked for.
#[derive(Debug)]
pub struct Error(());

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this program was built without native TLS")
    }
}

impl error::Error for Error {}

/// A certificate with its private key: none can be read.
#[derive(Clone)]
pub struct Identity(Infallible);

impl Identity {
    /// Refuses.
    ///
    /// # Errors
    /// Always.
    pub fn from_pkcs12(_der: &[u8], _password: &str) -> Result<Self> {
        Err(Error(()))
    }

    /// Refuses.
    ///
    /// # Errors
    /// Always.
    pub fn from_pkcs8(_pem: &[u8], _key: &[u8]) -> Result<Self> {
        Err(Error(()))
    }
}

/// A certificate: none can be read.
#[derive(Clone)]
pub struct Certificate(Infallible);

impl Certificate {
    /// Refuses.
    ///
    /// # Errors
    /// Always.
    pub fn from_der(_der: &[u8]) -> Result<Self> {
        Err(Error(()))
    }

    /// Refuses.
    ///
    /// # Errors
    /// Always.
    pub fn from_pem(_pem: &[u8]) -> Result<Self> {
        Err(Error(()))
    }

    /// Cannot be called: there is no certificate.
    ///
    /// # Errors
    /// Never.
    pub fn to_der(&self) -> Result<Vec<u8>> {
        match self.0 {}
    }
}

/// A handshake under way: there is none.
pub struct MidHandshakeTlsStream<S>(Infallible, PhantomData<S>);

impl<S> fmt::Debug for MidHandshakeTlsStream<S> {
    fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {}
    }
}

impl<S> MidHandshakeTlsStream<S> {
    /// Cannot be called.
    pub fn get_ref(&self) -> &S {
        match self.0 {}
    }

    /// Cannot be called.
    pub fn get_mut(&mut self) -> &mut S {
        match self.0 {}
    }

    /// Cannot be called.
    ///
    /// # Errors
    /// Never.
    pub fn handshake(self) -> std::result::Result<TlsStream<S>, HandshakeError<S>> {
        match self.0 {}
    }
}

/// Why there is no connection.
#[derive(Debug)]
pub enum HandshakeError<S> {
    /// TLS is not built in: always this one.
    Failure(Error),
    /// Never.
    WouldBlock(MidHandshakeTlsStream<S>),
}

impl<S: fmt::Debug> error::Error for HandshakeError<S> {}

impl<S> fmt::Display for HandshakeError<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failure(error) => error.fmt(f),
            Self::WouldBlock(stream) => match stream.0 {},
        }
    }
}

/// Protocol versions.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Protocol {
    /// SSL 3.0
    Sslv3,
    /// TLS 1.0
    Tlsv10,
    /// TLS 1.1
    Tlsv11,
    /// TLS 1.2
    Tlsv12,
    /// TLS 1.3
    Tlsv13,
}

/// Makes a [`TlsConnector`]; what it is told changes nothing.
#[derive(Debug, Default)]
pub struct TlsConnectorBuilder(());

impl TlsConnectorBuilder {
    /// Has no effect.
    pub fn identity(&mut self, _identity: Identity) -> &mut Self {
        self
    }

    /// Has no effect.
    pub fn min_protocol_version(&mut self, _protocol: Option<Protocol>) -> &mut Self {
        self
    }

    /// Has no effect.
    pub fn max_protocol_version(&mut self, _protocol: Option<Protocol>) -> &mut Self {
        self
    }

    /// Has no effect.
    pub fn add_root_certificate(&mut self, _certificate: Certificate) -> &mut Self {
        self
    }

    /// Has no effect.
    pub fn disable_built_in_roots(&mut self, _disable: bool) -> &mut Self {
        self
    }

    /// Has no effect.
    pub fn request_alpns(&mut self, _protocols: &[&str]) -> &mut Self {
        self
    }

    /// Has no effect.
    pub fn danger_accept_invalid_certs(&mut self, _accept: bool) -> &mut Self {
        self
    }

    /// Has no effect.
    pub fn use_sni(&mut self, _use_sni: bool) -> &mut Self {
        self
    }

    /// Has no effect.
    pub fn danger_accept_invalid_hostnames(&mut self, _accept: bool) -> &mut Self {
        self
    }

    /// The connector. Clients make one when they start, long before they would use it.
    ///
    /// # Errors
    /// Never.
    pub fn build(&self) -> Result<TlsConnector> {
        Ok(TlsConnector(()))
    }
}

/// Refuses every handshake.
#[derive(Clone, Debug)]
pub struct TlsConnector(());

impl TlsConnector {
    /// A connector.
    ///
    /// # Errors
    /// Never.
    pub fn new() -> Result<Self> {
        Ok(Self(()))
    }

    /// A builder.
    pub fn builder() -> TlsConnectorBuilder {
        TlsConnectorBuilder(())
    }

    /// Refuses.
    ///
    /// # Errors
    /// Always.
    pub fn connect<S>(
        &self,
        _domain: &str,
        _stream: S,
    ) -> std::result::Result<TlsStream<S>, HandshakeError<S>>
    where
        S: io::Read + io::Write,
    {
        Err(HandshakeError::Failure(Error(())))
    }
}

/// The server's side: there is none, for want of an identity.
#[derive(Clone)]
pub struct TlsAcceptor(Infallible);

impl TlsAcceptor {
    /// Cannot be called: there is no identity.
    ///
    /// # Errors
    /// Never.
    pub fn new(identity: Identity) -> Result<Self> {
        match identity.0 {}
    }

    /// Cannot be called.
    ///
    /// # Errors
    /// Never.
    pub fn accept<S>(&self, _stream: S) -> std::result::Result<TlsStream<S>, HandshakeError<S>>
    where
        S: io::Read + io::Write,
    {
        match self.0 {}
    }
}

/// A connection: there is none.
pub struct TlsStream<S>(Infallible, PhantomData<S>);

impl<S> fmt::Debug for TlsStream<S> {
    fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {}
    }
}

impl<S> TlsStream<S> {
    /// Cannot be called.
    pub fn get_ref(&self) -> &S {
        match self.0 {}
    }

    /// Cannot be called.
    pub fn get_mut(&mut self) -> &mut S {
        match self.0 {}
    }
}

impl<S: io::Read + io::Write> TlsStream<S> {
    /// Cannot be called.
    ///
    /// # Errors
    /// Never.
    pub fn buffered_read_size(&self) -> Result<usize> {
        match self.0 {}
    }

    /// Cannot be called.
    ///
    /// # Errors
    /// Never.
    pub fn peer_certificate(&self) -> Result<Option<Certificate>> {
        match self.0 {}
    }

    /// Cannot be called.
    ///
    /// # Errors
    /// Never.
    pub fn tls_server_end_point(&self) -> Result<Option<Vec<u8>>> {
        match self.0 {}
    }

    /// Cannot be called.
    ///
    /// # Errors
    /// Never.
    pub fn negotiated_alpn(&self) -> Result<Option<Vec<u8>>> {
        match self.0 {}
    }

    /// Cannot be called.
    ///
    /// # Errors
    /// Never.
    pub fn shutdown(&mut self) -> io::Result<()> {
        match self.0 {}
    }
}

impl<S: io::Read + io::Write> io::Read for TlsStream<S> {
    fn read(&mut self, _buffer: &mut [u8]) -> io::Result<usize> {
        match self.0 {}
    }
}

impl<S: io::Read + io::Write> io::Write for TlsStream<S> {
    fn write(&mut self, _buffer: &[u8]) -> io::Result<usize> {
        match self.0 {}
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.0 {}
    }
}
