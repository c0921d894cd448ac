//! Links that go down and networks that fall apart. No host loses its address or its neighbours,
//! so packets vanish without an error, as on a real cable.

use crate::fleet::{Fleet, Host, Station};

impl Station {
    /// Cuts its link.
    ///
    /// # Panics
    /// When the kernel refuses.
    pub fn link_down(&self) {
        self.network()
            .set_link(self.number(), false)
            .expect("a link can go down");
    }

    /// Mends its link.
    ///
    /// # Panics
    /// When the kernel refuses.
    pub fn link_up(&self) {
        self.network()
            .set_link(self.number(), true)
            .expect("a link can go up");
    }
}

impl Fleet {
    /// Splits the network: these hosts reach each other and nobody else.
    ///
    /// # Panics
    /// When the kernel refuses, or the fleet has sites.
    pub fn partition<'a>(&'a self, cut_off: impl IntoIterator<Item = &'a Host>) {
        for host in cut_off {
            let number = host.station().number();
            self.network()
                .set_side(number, true)
                .expect("a port can change bridges");
        }
    }

    /// Joins what [`Self::partition`] split.
    ///
    /// # Panics
    /// When the kernel refuses, or the fleet has sites.
    pub fn heal(&self) {
        for host in self.hosts() {
            let number = host.station().number();
            self.network()
                .set_side(number, false)
                .expect("a port can change bridges");
        }
    }
}
