//! For tests: a peer that answers no connection attempt, without a firewall.

use std::net::{SocketAddr, TcpListener, TcpStream};

use socket2::{Domain, Socket, Type};

/// A listener whose queue is full, so that the kernel drops further SYNs to it.
pub(crate) struct FullListener {
    listener: TcpListener,
    /// A backlog of zero still takes one.
    _filler: TcpStream,
}

impl FullListener {
    pub(crate) fn new() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        socket.listen(0).unwrap();
        let listener = TcpListener::from(socket);
        let filler = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        Self { listener, _filler: filler }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    /// Makes room in the queue for one.
    pub(crate) fn drain(&self) {
        drop(self.listener.accept().unwrap());
    }
}
