#!/bin/sh
# Reads charges from Kafka with kcat (Debian: apt install kcat), one a line, until COUNT were read.
# Usage: KAFKA=kafka.example.eu:9093 CA=ca.crt CERT=portal.crt KEY=portal.key GROUP=portal-kcat COUNT=10 sh consume-kcat.sh
set -eu
exec kcat -b "$KAFKA" -q -c "${COUNT:-10}" \
    -X security.protocol=ssl \
    -X ssl.ca.location="$CA" -X ssl.certificate.location="$CERT" -X ssl.key.location="$KEY" \
    -X auto.offset.reset=earliest \
    -G "$GROUP" "${TOPIC:-aifn-usage-charged-v1}"
