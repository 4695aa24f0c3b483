//! A network namespace with two cables to ours, one of which can be cut.

use std::process::Command;

/// What a namespace can't be made without.
const HINT: &str = "needs CAP_NET_ADMIN and `ip` (iproute2)";

/// Gone, with its cables, when dropped. Processes in it must have ended before.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    /// Our end of each cable.
    outside: [String; 2],
    /// Our address and the other end's, of each cable.
    addresses: [(String, String); 2],
}

fn run(arguments: &[&str]) -> Result<(), String> {
    let said = Command::new("ip").args(arguments).output();
    let said = said.map_err(|error| format!("{HINT}: {error}"))?;
    if said.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&said.stderr);
    Err(format!("{HINT}: ip {}: {}", arguments.join(" "), text.trim()))
}

impl Namespace {
    /// A namespace whose names and addresses follow from `number`.
    ///
    /// # Errors
    /// In words, where that is not allowed.
    pub fn new(number: u32) -> Result<Self, String> {
        let name = format!("miroir-{number}");
        let outside = [format!("mr{number}a"), format!("mr{number}b")];
        // 10.64.0.0/10 in blocks of four addresses, two for each namespace.
        let block = |cable: u32| {
            let base = 0x0a40_0000u32 + (number % 500_000) * 8 + cable * 4;
            let at = |host: u32| std::net::Ipv4Addr::from(base + host).to_string();
            (at(1), at(2))
        };
        run(&["netns", "add", &name])?;
        let made = Self { name, outside, addresses: [block(0), block(1)] };
        let name = made.name.as_str();
        run(&["-n", name, "link", "set", "lo", "up"])?;
        for (cable, (ours, theirs)) in made.addresses.iter().enumerate() {
            let (outside, inside) = (made.outside[cable].as_str(), Self::inside(cable));
            run(&["link", "add", outside, "type", "veth", "peer", "name", inside, "netns", name])?;
            run(&["address", "add", &format!("{ours}/30"), "dev", outside])?;
            run(&["-n", name, "address", "add", &format!("{theirs}/30"), "dev", inside])?;
            run(&["link", "set", outside, "up"])?;
            run(&["-n", name, "link", "set", inside, "up"])?;
        }
        Ok(made)
    }

    fn inside(cable: usize) -> &'static str {
        ["first", "second"][cable.min(1)]
    }

    /// Our address at the end of `cable` (0 or 1).
    pub fn ours(&self, cable: usize) -> &str {
        &self.addresses[cable].0
    }

    /// The address of the namespace's end of `cable`.
    pub fn theirs(&self, cable: usize) -> &str {
        &self.addresses[cable].1
    }

    /// What to write before a program so that it runs inside.
    pub fn prefix(&self) -> Vec<String> {
        ["ip", "netns", "exec", &self.name].map(str::to_owned).to_vec()
    }

    /// Cuts `cable`, or mends it. The other end notices nothing but silence.
    ///
    /// # Errors
    /// In words.
    pub fn set_cable(&self, cable: usize, whole: bool) -> Result<(), String> {
        let state = if whole { "up" } else { "down" };
        run(&["-n", &self.name, "link", "set", Self::inside(cable), state])
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        for outside in &self.outside {
            // One that was never made.
            let _none = run(&["link", "delete", outside]);
        }
        let _none = run(&["netns", "delete", &self.name]);
    }
}
