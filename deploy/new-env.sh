#!/bin/sh
# Prints compose.env.example with a random value for every secret that is empty there:
#   sh deploy/new-env.sh > .env
set -eu
while IFS= read -r line; do
    case $line in
        *PASSWORD= | *SECRET= | *_KEY=) printf '%s%s\n' "$line" "$(openssl rand -hex 24)" ;;
        *) printf '%s\n' "$line" ;;
    esac
done < "$(dirname "$0")/compose.env.example"
