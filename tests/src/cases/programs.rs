//! A real Debian userland at work.

use std::fs;

use super::any;
use crate::bundle::Root;
use crate::{Case, Env, host};

pub(super) const CASES: &[Case] = &[
    any("programs::shell_pipelines", 180, shell_pipelines),
    any("programs::python_perl_and_gcc", 300, python_perl_and_gcc),
    any("programs::calls_of_32_bit_programs", 120, calls_of_32_bit_programs),
    any("programs::package_installation", 400, package_installation),
    any("programs::which_kernel", 120, which_kernel),
];

fn shell_pipelines(env: &Env) {
    let mut session = env.session(env.bundle(Root::Debian));
    assert_eq!(session.run("seq 1 1000 | sort -rn | head -3 | tr '\\n' ,"), "1000,999,998,");
    assert_eq!(session.run("cat /etc/os-release | grep ^VERSION_CODENAME= | cut -d= -f2"), "bookworm");
    assert_eq!(session.run("yes | head -c 1000000 | wc -c"), "1000000");
    assert_eq!(session.run("find /etc -name passwd -exec cat {} + | awk -F: '$3 == 0 { print $1 }'"), "root");
    assert_eq!(session.run("for i in 1 2 3; do echo $i; done | while read n; do echo $((n*n)); done | xargs"), "1 4 9");
    assert_eq!(session.run("mkfifo /tmp/p; (echo through >/tmp/p &); cat /tmp/p; rm /tmp/p"), "through");
    assert_eq!(session.run("tar -C /etc -cf - apt | gzip | tar -tzf - | grep -c '^apt/apt.conf.d/$'"), "1");
    assert_eq!(session.status("false | true").0, 0);
    assert_eq!(session.status("bash -o pipefail -c 'false | true'").0, 1);
    session.end();
}

/// A compiler for them is not there, but any program can make their calls: of time(2) with 32 bits, and of getuid(2) with 16.
fn calls_of_32_bit_programs(env: &Env) {
    let mut session = env.session(env.bundle(Root::Debian));
    session.run(
        r#"cat >/tmp/t.c <<'END'
#include <stdio.h>
#include <time.h>
static int call(int number) { int result; __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(0) : "memory"); return result; }
int main(void) { int now = call(13); printf("%d %d\n", now - (int)time(0) <= 1 && now > 1000000000, call(24)); return 0; }
END
gcc -O1 -o /tmp/t /tmp/t.c"#,
    );
    assert_eq!(session.run("/tmp/t"), "1 0");
    session.end();
}

fn python_perl_and_gcc(env: &Env) {
    let mut session = env.session(env.bundle(Root::Debian));
    assert_eq!(session.run("python3 -c 'print(sum(i * i for i in range(1000)))'"), "332833500");
    let threads = "import threading, subprocess, tempfile, socket, hashlib
got = []
t = [threading.Thread(target=got.append, args=(i,)) for i in range(8)]
[x.start() for x in t]; [x.join() for x in t]
a, b = socket.socketpair(); a.send(b'hi'); assert b.recv(2) == b'hi'
f = tempfile.TemporaryFile(); f.write(b'x' * 100000); f.seek(0); assert len(f.read()) == 100000
print(sorted(got), subprocess.check_output(['uname', '-s']).decode().strip(), hashlib.sha256(b'').hexdigest()[:8])";
    assert_eq!(session.run(&format!("python3 -c \"{threads}\"")), "[0, 1, 2, 3, 4, 5, 6, 7] Linux e3b0c442");
    assert_eq!(
        session.run("perl -e 'print join(\",\", map { $_ ** 2 } grep { $_ % 2 } 1..9), \"\\n\"'"),
        "1,9,25,49,81"
    );
    session.run(
        "cat >/tmp/t.c <<'END'
#include <pthread.h>
#include <stdio.h>
#include <math.h>
static void *run(void *p) { *(double *)p = sqrt(*(double *)p); return 0; }
int main(void) { double x = 1764; pthread_t t; pthread_create(&t, 0, run, &x); pthread_join(t, 0); printf(\"%.0f\\n\", x); return 21; }
END
gcc -O2 -Wall -o /tmp/t /tmp/t.c -lpthread -lm",
    );
    assert_eq!(session.status("/tmp/t"), (21, "42".to_owned()));
    // The host sees the program as a file of the root file system.
    let program = session.bundle.host_path("/tmp/t");
    assert_eq!(&fs::read(program).expect("read")[..4], b"\x7fELF");
    session.end();
}

/// No network and no package lists: a package from a file, by dpkg and by apt.
fn package_installation(env: &Env) {
    let packages = env.directory("packages");
    for name in ["hello-one", "hello-two"] {
        let tree = env.directory(name);
        for directory in ["DEBIAN", "usr/bin", "etc", "var/lib/hello"] {
            fs::create_dir_all(tree.join(directory)).expect("create directory");
        }
        let control = format!(
            "Package: {name}\nVersion: 1.0\nArchitecture: all\nMaintainer: Tests <tests@invalid>\nDescription: a test package\n"
        );
        fs::write(tree.join("DEBIAN/control"), control).expect("write");
        fs::write(tree.join("DEBIAN/conffiles"), format!("/etc/{name}.conf\n")).expect("write");
        fs::write(tree.join("DEBIAN/postinst"), "#!/bin/sh\nset -e\nid -un >/var/lib/hello/installed-by\n")
            .expect("write");
        fs::write(tree.join("usr/bin").join(name), format!("#!/bin/sh\necho {name} here\n")).expect("write");
        fs::write(tree.join("etc").join(format!("{name}.conf")), "setting\n").expect("write");
        host(
            "chmod",
            &[
                "755",
                &tree.join("DEBIAN/postinst").to_string_lossy(),
                &tree.join("usr/bin").join(name).to_string_lossy(),
            ],
        );
        host(
            "dpkg-deb",
            &[
                "--root-owner-group",
                "--build",
                &tree.to_string_lossy(),
                &packages.join(format!("{name}.deb")).to_string_lossy(),
            ],
        );
    }
    let bundle = env.bundle(Root::Debian).bind(&packages, "/packages", &["ro"]).env("DEBIAN_FRONTEND=noninteractive");
    let mut session = env.session(bundle);
    session.run("dpkg -i /packages/hello-one.deb");
    assert_eq!(session.run("hello-one"), "hello-one here");
    session.run("apt-get install -y /packages/hello-two.deb");
    assert_eq!(session.run("hello-two; cat /var/lib/hello/installed-by"), "hello-two here\nroot");
    assert_eq!(session.run("dpkg -l hello-one hello-two | grep -c ^ii"), "2");
    assert_eq!(fs::read_to_string(session.bundle.host_path("/etc/hello-two.conf")).expect("read"), "setting\n");
    session.run("apt-get purge -y hello-one hello-two");
    assert_eq!(session.status("hello-one 2>/dev/null").0, 127);
    assert!(!session.bundle.host_path("/etc/hello-two.conf").exists());
    session.end();
}

/// The point of it all: the container's kernel is not the host's.
fn which_kernel(env: &Env) {
    let bundle = env.bundle(Root::Debian).script("uname -r; cat /proc/sys/kernel/random/boot_id");
    let outcome = env.run(&bundle);
    let native = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("boot id");
    let boot_id = outcome.ok().lines().nth(1).expect("two lines").to_owned();
    assert_eq!(boot_id == native.trim(), env.is_runc(), "{boot_id} on a host with {native}");
}
