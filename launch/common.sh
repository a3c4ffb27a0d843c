# shellcheck shell=sh
# Sourced by the scripts beside it. With dry_run=yes, `run` prints what it would run.

# The words, quoted so that a shell reads them back as they are.
quoted() {
  separator=
  for word; do
    printf %s "$separator"
    separator=' '
    case $word in
      *[!A-Za-z0-9_./:=,@%+-]* | '')
        printf "'%s'" "$(printf %s "$word" | sed "s/'/'\\\\''/g")" ;;
      *) printf %s "$word" ;;
    esac
  done
}

run() {
  if [ "${dry_run:-no}" = yes ]; then
    quoted "$@"
    echo
  else
    "$@"
  fi
}

fail() {
  echo "error: $*" >&2
  exit 2
}
