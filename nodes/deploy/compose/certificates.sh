#!/bin/sh
# An authority of one's own and a certificate a node, good for 90 days. What is there is kept.
set -eu
cd "$(dirname "$0")"
umask 077
mkdir -p certificates
cd certificates
if [ ! -f ca.pem ]; then
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 -subj /CN=featureops \
    -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign -keyout ca.key -out ca.pem
fi
for node in node-1 node-2 node-3; do
  if [ -f "$node.pem" ]; then continue; fi
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=$node" -keyout "$node.key" -out "$node.csr"
  printf 'subjectAltName=DNS:%s,DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n' "$node" > "$node.ext"
  openssl x509 -req -in "$node.csr" -CA ca.pem -CAkey ca.key -CAcreateserial -days 90 -extfile "$node.ext" -out "$node.pem"
  rm "$node.csr" "$node.ext"
done
