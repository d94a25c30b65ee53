#!/usr/bin/env bash
# Installs Cloister as a service of the system: accounts, groups, folders, settings, policies, systemd units.
# Run it again after an update: it changes what differs, and never settings or policies of your own.
#
#   deploy/install.sh                       the program from this checkout, its packages from the configured index
#   deploy/install.sh --wheelhouse DIR      the same without a network, from a folder of wheels
#   deploy/install.sh --environment DIR     with a virtual environment that somebody else prepared
#   deploy/install.sh --repair              owners and modes of the home set again, as after a restore
#   deploy/install.sh --uninstall           program and units go; data, settings and accounts stay
#   deploy/install.sh --uninstall --purge   these go too, for good
#   ... --yes                               without being asked
set -euo pipefail
umask 022
here=$(cd "$(dirname "$0")/.." && pwd)
prefix=/opt/cloister
home=/var/lib/cloister
settings=/etc/cloister
units=(cloister.target cloisterd.service cloister-launcher.service cloister-gateway.service)
roles=(admin steward trainer approver operator auditor)
changes=0

say() { printf 'install: %s\n' "$*"; }
did() { changes=$((changes + 1)); say "$*"; }
die() { printf 'install: %s\n' "$*" >&2; exit 1; }
. "$here/deploy/find_python.sh"

# --- what was asked for --------------------------------------------------------------------------------

action=install wheelhouse='' environment='' purge='' yes='' repair=''
while [ $# -gt 0 ]; do
  case "$1" in
    --wheelhouse) [ $# -ge 2 ] || die '--wheelhouse needs a folder'; wheelhouse=$2; shift ;;
    --environment) [ $# -ge 2 ] || die '--environment needs a folder'; environment=$2; shift ;;
    --repair) repair=yes ;;
    --uninstall) action=uninstall ;;
    --purge) purge=yes ;;
    --yes) yes=yes ;;
    -h|--help) sed -n '2,/^set -/{/^#/s/^# \{0,1\}//p}' "$0"; exit 0 ;;
    *) die "unknown option '$1'; see --help" ;;
  esac
  shift
done
[ "$(id -u)" = 0 ] || die "this takes root: sudo $0"
if [ -n "$wheelhouse" ]; then wheelhouse=$(cd "$wheelhouse" 2>/dev/null && pwd) || die 'the wheelhouse is not a folder'; fi
if [ -n "$environment" ]; then environment=$(cd "$environment" 2>/dev/null && pwd) || die 'the environment is not a folder'; fi
if [ -n "$purge" ] && [ "$action" != uninstall ]; then die '--purge goes with --uninstall'; fi

systemd_runs() { [ -d /run/systemd/system ]; }

# What root changes in folders that the service's accounts own, it changes only while none of their programs runs: nobody
# can then put a link where a folder was a moment ago.
require_stopped() {
  local account
  for account in cloister cloister-launcher cloister-gateway; do
    if getent passwd "$account" >/dev/null && [ -n "$(pids_of "$account")" ]; then
      die "$1: stop the service first (systemctl stop cloister.target); programs of the account $account run"
    fi
  done
}

pids_of() {
  local uid status
  uid=$(id -u "$1")
  for status in /proc/[0-9]*/status; do
    if [ "$(sed -n 's/^Uid:[[:space:]]*\([0-9]*\).*/\1/p' "$status" 2>/dev/null)" = "$uid" ]; then echo "$status"; return; fi
  done
}

# --- packages of the system -----------------------------------------------------------------------------

require_programs() {
  command -v systemctl >/dev/null || die 'systemd is needed (systemctl was not found)'
  command -v useradd >/dev/null || die 'useradd is needed (Debian: apt-get install passwd)'
  if command -v bwrap >/dev/null; then return; fi
  local install=''
  if command -v apt-get >/dev/null; then install='apt-get install -y --no-install-recommends bubblewrap'
  elif command -v dnf >/dev/null; then install='dnf install -y bubblewrap'
  elif command -v zypper >/dev/null; then install='zypper --non-interactive install bubblewrap'; fi
  if [ -n "$install" ] && $install >/dev/null 2>&1; then did 'bubblewrap installed'
  else die "bubblewrap (bwrap) is missing. Install it, for example: ${install:-your package manager}"; fi
}

# --- the program ----------------------------------------------------------------------------------------

# What the program is made of, so that an unchanged one is not installed again.
fingerprint() {
  (cd "$here" && find src policies pyproject.toml "deploy/locks/$1.txt" -type f ! -name '*.pyc' -print0 | LC_ALL=C sort -z |
    xargs -0 sha256sum | sha256sum | cut -d' ' -f1)
}

install_program() {
  install -d -m 755 "$prefix"
  if [ -n "$environment" ]; then
    local above=$environment
    while [ "$above" != / ]; do
      [ "$(stat -c %u "$above")" = 0 ] && [ $((0$(stat -c %a "$above") & 022)) = 0 ] ||
        die "$above can be written to by others than root: programs that run as root and as the service must not lie there"
      above=$(dirname "$above")
    done
    [ -x "$environment/bin/cloisterd" ] || die "there is no Cloister in $environment (bin/cloisterd)"
    if [ "$(readlink "$prefix/venv" 2>/dev/null)" != "$environment" ]; then
      rm -rf "$prefix/venv"
      ln -s "$environment" "$prefix/venv"
      did "program: $environment"
    fi
    return
  fi
  local backend=cpu made index=()
  if [ -e /proc/driver/nvidia/version ]; then backend=cuda; fi
  made="$backend $(fingerprint "$backend")"
  if [ "$(cat "$prefix/.installed" 2>/dev/null)" = "$made" ] && "$prefix/venv/bin/cloister" --version >/dev/null 2>&1
  then return; fi
  rm -f "$prefix/.installed"
  if [ -L "$prefix/venv" ]; then rm "$prefix/venv"; fi
  if ! "$prefix/venv/bin/python" -m pip --version >/dev/null 2>&1; then  # none yet, or one that was cut off
    local python
    python=$(find_python)
    "$python" -m venv --clear "$prefix/venv"
  fi
  if [ -n "$wheelhouse" ]; then index=(--no-index --find-links "$wheelhouse"); fi
  say "packages of deploy/locks/$backend.txt (a few minutes)"
  "$prefix/venv/bin/pip" install -qq --no-input --no-deps --require-hashes "${index[@]}" -r "$here/deploy/locks/$backend.txt" ||
    die "these packages could not be installed. Without a network, prepare a wheelhouse elsewhere:
  pip download --no-deps --require-hashes -r deploy/locks/$backend.txt -d WHEELHOUSE"
  local copy
  copy=$(mktemp -d)
  cp -R "$here/src" "$here/policies" "$here/pyproject.toml" "$here/README.md" "$here/LICENSE" "$copy"
  "$prefix/venv/bin/pip" install -qq --no-input --no-deps --no-build-isolation --no-index --force-reinstall "$copy" ||
    { rm -rf "$copy"; die 'the program itself could not be installed'; }
  rm -rf "$copy"
  printf '%s\n' "$made" > "$prefix/.installed"
  did "program: $prefix/venv"
}

# The units see no home folder (ProtectHome=): an interpreter that lies in one does not start there.
check_interpreter() {
  local place
  for place in "$(readlink -f "$prefix/venv")" "$(readlink -f "$prefix/venv/bin/python")"; do
    case "$place" in
      /root/*|/home/*|/run/user/*) say "WARNING: $place lies in a home folder, which the units cannot see: the service will not start" ;;
    esac
  done
}

# With a GPU Triton compiles a launcher when an engine starts, with what no wheel brings.
check_compiler() {
  if [ ! -e /proc/driver/nvidia/version ]; then return; fi
  local lacking
  lacking=$("$prefix/venv/bin/python" -P -c 'from cloister.compiler import missing; print(missing() or "")')
  if [ -n "$lacking" ]; then
    say "WARNING: this machine lacks $lacking: nothing can be served on a GPU (Debian: apt-get install gcc libc6-dev python3-dev)"
  fi
}

# --- accounts and groups -----------------------------------------------------------------------------------

group() {
  if getent group "$1" >/dev/null; then return; fi
  groupadd --system "$1"
  did "group $1"
}

account() {
  group "$1"
  if ! getent passwd "$1" >/dev/null; then
    useradd --system --gid "$1" --home-dir "$home" --no-create-home --shell /usr/sbin/nologin --comment "$2" "$1"
    did "account $1"
  fi
  case "$(getent passwd "$1" | cut -d: -f7)" in
    */nologin|*/false) ;;
    *) die "there is an account $1 that people can log in with: it cannot be the service's" ;;
  esac
}

member() {
  if id -nG "$1" | tr ' ' '\n' | grep -qx "$2"; then return; fi
  usermod --append --groups "$2" "$1"
  did "account $1 in group $2"
}

make_accounts() {
  account cloister 'Cloister authority'
  account cloister-launcher 'Cloister launcher'
  account cloister-gateway 'Cloister gateway'
  group cloister-engines
  local role one
  for role in "${roles[@]}"; do group "cloister-$role"; done
  for one in cloister-launcher cloister-gateway cloister-engines; do member cloister "$one"; done
  for one in cloister-launcher cloister-gateway; do member "$one" cloister-engines; done
}

# --- folders: mode owner:group below the home. A setgid bit is where two accounts meet. -------------------------

folders() {
  cat <<'END'
711  cloister          cloister           .
700  cloister          cloister           keys
700  cloister          cloister           state
700  cloister          cloister           logs
711  cloister          cloister           ledger
700  cloister          cloister           ledger/control
2750 cloister-gateway  cloister-gateway   ledger/gateway
700  cloister          cloister           ledger/gateway/cosigned
2770 cloister          cloister-gateway   bodies
2750 cloister          cloister-launcher  objects
2770 cloister          cloister-launcher  work
711  cloister          cloister           run
2770 cloister          cloister-engines   run/engines
2750 cloister-launcher cloister-launcher  run/launcher
2750 cloister-gateway  cloister-gateway   run/gateway
END
}

make_folders() {
  local mode owner group path
  while read -r mode owner group path; do
    path="$home/$path"; path=${path%/.}
    if [ "$(stat -c '%F %a %U %G' "$path" 2>/dev/null)" = "directory $mode $owner $group" ]; then continue; fi
    require_stopped "$path is not as it should be"
    if [ -L "$path" ]; then die "$path is a symbolic link; a folder belongs there"; fi
    if [ ! -d "$path" ]; then mkdir -p "$(dirname "$path")"; mkdir -m 700 "$path"; fi
    chown -h "$owner:$group" "$path"
    chmod "$(printf %05d "$mode")" "$path"  # with five digits chmod also takes a setgid bit away
    did "folder $path: $mode $owner:$group"
  done < <(folders)
}

# As after a restore, whose files belong to whoever restored. Parents come first in the table, so children have the last word.
repair_folders() {
  local mode owner group path
  touch "$prefix/.repairing"  # one that is cut off is taken up by the next run
  while read -r mode owner group path; do
    path="$home/$path"; path=${path%/.}
    chown -hR "$owner:$group" "$path"
    case "$mode" in
      2*) find "$path" -mindepth 1 -type d -exec chmod 2770 {} +
          if [ "$path" = "$home/bodies" ]; then find "$path" -type f -exec chmod 660 {} +
          else find "$path" -type f -exec chmod 640 {} +; fi ;;
      *)  find "$path" -mindepth 1 -type d -exec chmod 00700 {} +
          find "$path" -type f -exec chmod 600 {} + ;;
    esac
  done < <(folders)
  if [ -f "$home/appliance.json" ] && [ ! -L "$home/appliance.json" ]; then chmod 644 "$home/appliance.json"; fi
  while read -r mode owner group path; do chmod "$(printf %05d "$mode")" "$home/$path"; done < <(folders)
  rm -f "$prefix/.repairing"
  did 'owners and modes of the home'
}

# --- settings and policies, once ---------------------------------------------------------------------------------

# A copy of the set that ships, to begin a set of one's own with. While nobody changed it, it follows the updates.
offer_policies() {
  local target="$settings/policies" shipped
  shipped=$(set_digest "$here/policies")
  if [ ! -e "$target" ]; then copy_set "$target"
  elif [ "$(cat "$target/.shipped" 2>/dev/null)" = "$shipped" ]; then return
  elif [ "$(cat "$target/.shipped" 2>/dev/null)" = "$(set_digest "$target")" ]; then copy_set "$target"
  elif [ "$(cat "$target.new/.shipped" 2>/dev/null)" != "$shipped" ]; then
    copy_set "$target.new"
    say "$target was changed here and stays; the set that ships now lies beside it"
  fi
}

set_digest() {
  (cd "$1" && find . ! -type d ! -name .shipped ! -path ./TABLE.md ! -path ./appliance.yaml -print0 | LC_ALL=C sort -z |
    xargs -0 sha256sum 2>&1 | sha256sum | cut -d' ' -f1)
}

copy_set() {
  rm -rf "$1.part"
  install -d -m 755 "$1.part"
  (cd "$here/policies" && cp -R ./*.cedar ./*.cedarschema tests "$1.part")
  set_digest "$1.part" > "$1.part/.shipped"
  chmod -R u=rwX,go=rX "$1.part"
  rm -rf "$1"
  mv "$1.part" "$1"
  did "policies: $1"
}

make_settings() {
  install -d -m 755 "$settings"
  local own="$home/appliance.yaml" aside
  if [ ! -e "$settings/appliance.yaml" ] && [ -f "$own" ] && [ ! -L "$own" ]; then
    require_stopped 'the home has settings of its own'
    install -m 644 "$own" "$settings/appliance.yaml"
    did "settings: $settings/appliance.yaml, as the home had them"
  elif [ ! -e "$settings/appliance.yaml" ]; then
    local named='' role
    for role in "${roles[@]}"; do named="$named${named:+, }$role: cloister-$role"; done
    sed -e "s|^  roles: {}\$|  roles: {$named}|" \
        -e 's|^  gateway_account: null$|  gateway_account: cloister-gateway|' \
        -e "s|^  allowed_signers: null\$|  allowed_signers: $settings/allowed_signers|" \
        "$here/policies/appliance.yaml" > "$settings/appliance.yaml.part"
    [ "$(grep -c -e "^  roles: {admin" -e '^  gateway_account: cloister-gateway' -e "^  allowed_signers: $settings" \
         "$settings/appliance.yaml.part")" = 3 ] || die 'policies/appliance.yaml has another form'
    mv "$settings/appliance.yaml.part" "$settings/appliance.yaml"
    did "settings: $settings/appliance.yaml"
  fi
  offer_policies
  if [ ! -e "$settings/allowed_signers" ]; then
    install -m 644 /dev/null "$settings/allowed_signers"
    did "signers of approvals: $settings/allowed_signers"
  fi
  if [ "$(readlink "$own" 2>/dev/null)" != "$settings/appliance.yaml" ]; then
    require_stopped 'the home has settings of its own'
    if [ -e "$own" ] || [ -L "$own" ]; then
      aside="$own.before-$(date +%Y%m%dT%H%M%S)"
      mv -Tn "$own" "$aside"
      say "the home had settings of its own: now $aside, in force is $settings/appliance.yaml"
    fi
    ln -sT "$settings/appliance.yaml" "$own"
    did "the home's settings are those of $settings"
  fi
}

# --- units -----------------------------------------------------------------------------------------------------------

copy() {
  if cmp -s "$1" "$2"; then return; fi
  install -D -m 644 "$1" "$2"
  did "$2"
}

install_units() {
  local unit
  for unit in "${units[@]}"; do copy "$here/deploy/systemd/$unit" "/etc/systemd/system/$unit"; done
  copy "$here/deploy/handbook.md" "$prefix/handbook.md"
  if [ -e /etc/apparmor.d/abi/4.0 ]; then
    copy "$here/deploy/apparmor/cloister-launcher" /etc/apparmor.d/cloister-launcher
    if [ -d /sys/kernel/security/apparmor ] && command -v apparmor_parser >/dev/null; then
      apparmor_parser --replace /etc/apparmor.d/cloister-launcher
    fi
  fi
  if [ "$(readlink /usr/local/bin/cloister 2>/dev/null)" != "$prefix/venv/bin/cloister" ]; then
    install -d -m 755 /usr/local/bin
    ln -sfn "$prefix/venv/bin/cloister" /usr/local/bin/cloister
    did '/usr/local/bin/cloister'
  fi
  if systemd_runs; then systemctl daemon-reload; fi
  for unit in "${units[@]}"; do
    if [ "$(systemctl is-enabled "$unit" 2>/dev/null)" = enabled ]; then continue; fi
    systemctl -q enable "$unit"
    did "$unit is started with the system"
  done
}

# --- taking it away ------------------------------------------------------------------------------------------------------

uninstall() {
  if [ -n "$purge" ] && [ -z "$yes" ]; then
    [ -t 0 ] || die 'this destroys every dataset, model and ledger here: give --yes where nobody can be asked'
    printf 'This destroys every dataset, model, key and ledger under %s, for good. Type its path to go on: ' "$home"
    local answer
    read -r answer
    [ "$answer" = "$home" ] || die 'nothing was changed'
  fi
  local unit role one
  if systemd_runs; then systemctl -q stop cloister.target cloister-gateway.service cloisterd.service cloister-launcher.service 2>/dev/null || true; fi
  require_stopped 'nothing was taken away'  # where systemd does not run, or one was started by hand
  for unit in "${units[@]}"; do
    if [ ! -e "/etc/systemd/system/$unit" ]; then continue; fi
    systemctl -q disable "$unit" 2>/dev/null || true
    rm -f "/etc/systemd/system/$unit"
    did "$unit removed"
  done
  if systemd_runs; then systemctl daemon-reload; fi
  if [ -e /etc/apparmor.d/cloister-launcher ]; then
    if [ -d /sys/kernel/security/apparmor ]; then apparmor_parser --remove /etc/apparmor.d/cloister-launcher 2>/dev/null || true; fi
    rm /etc/apparmor.d/cloister-launcher
    did '/etc/apparmor.d/cloister-launcher removed'
  fi
  if [ -L /usr/local/bin/cloister ]; then rm /usr/local/bin/cloister; did '/usr/local/bin/cloister removed'; fi
  if [ -e "$prefix" ]; then rm -rf "$prefix"; did "$prefix removed"; fi
  if [ -z "$purge" ]; then
    if [ -e "$home" ]; then say "kept: $home, $settings and the accounts (--purge destroys them)"; fi
    return
  fi
  for one in "$home" "$settings"; do
    if [ ! -e "$one" ]; then continue; fi
    find "$one" -mindepth 1 -delete
    rmdir "$one" 2>/dev/null || say "$one stays: a disk is mounted there"
    did "$one removed"
  done
  for one in cloister cloister-launcher cloister-gateway; do
    if getent passwd "$one" >/dev/null; then userdel "$one"; did "account $one removed"; fi
  done
  for one in cloister cloister-launcher cloister-gateway cloister-engines "${roles[@]/#/cloister-}"; do
    if getent group "$one" >/dev/null; then groupdel "$one"; did "group $one removed"; fi
  done
}

# --- all of it -----------------------------------------------------------------------------------------------------------

if [ "$action" = uninstall ]; then
  uninstall
  if [ "$changes" = 0 ]; then say 'nothing of it is here'; fi
  exit 0
fi
require_programs
if [ -n "$repair" ]; then require_stopped 'a repair'; fi
install_program
check_interpreter
check_compiler
make_accounts
make_folders
make_settings
if [ -n "$repair" ] || [ -e "$prefix/.repairing" ]; then repair_folders; fi
install_units
if [ "$changes" = 0 ]; then say 'nothing to do: everything is as it should be'; exit 0; fi
say "done, $changes changes"
cat <<END
Next, as root:
  systemctl start cloister.target
  usermod -aG cloister-admin ALICE          who keeps the keys; likewise -steward, -trainer, -approver, -operator, -auditor
and as ALICE, after a new login:
  cloister init                             the vault's first passphrase
The handbook goes on from there: $prefix/handbook.md, "Installed as a service".
END
