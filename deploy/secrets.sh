#!/bin/sh
# Creates the secrets of docker-compose.secure.yml and docker-compose.team.yml in a folder, `secrets` by default; what is
# there already stays.
#
#   sh deploy/secrets.sh [FOLDER] [HOST]
#
# HOST is the name in the certificate, by default localhost. The certificate is signed by itself: replace proxy.pem by a
# certificate and key of an authority that browsers know. Needs openssl.
set -eu
folder=${1:-secrets}
host=${2:-localhost}

# Only the owner may enter the folder. The files themselves are readable, because each container reads its own as user 10001.
mkdir -p "$folder"
chmod 700 "$folder"
cd "$folder"

new() { # writes standard input to a file, unless it exists
    if [ -e "$1" ]; then cat >/dev/null; else
        cat >"$1.part" && chmod 644 "$1.part" && mv "$1.part" "$1"
    fi
}
password() { openssl rand -hex 24; }

for account in admin train serve; do
    printf '[mlflow]\nmlflow_tracking_username = %s\nmlflow_tracking_password = %s\n' \
        "$account" "$(password)" | new "$account.ini"
done
admin=$(sed -n 's/^mlflow_tracking_password = //p' admin.ini)
printf '[mlflow]\n%s\n%s\n%s\n%s\n%s\n' \
    'default_permission = NO_PERMISSIONS' \
    'database_uri = sqlite:////mlflow/accounts.db' \
    'authorization_function = mlflow.server.auth:authenticate_request_basic_auth' \
    'admin_username = admin' "admin_password = $admin" | new mlflow.ini
password | new mlflow.key
password | new tokens

password | new postgres.password
# libpq's service file, for MLflow and `migrate`. A password in it may have any character, and none is escaped.
printf '[digits]\nhost=postgres\ndbname=mlflow\nuser=mlflow\npassword=%s\n' "$(cat postgres.password)" | new postgres.conf

if [ ! -e proxy.pem ]; then
    case $host in *[!0-9.]*) kind=DNS ;; *) kind=IP ;; esac
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 825 -subj "/CN=$host" \
        -addext "subjectAltName=$kind:$host" -keyout key.part -out certificate.part 2>/dev/null
    cat certificate.part key.part | new proxy.pem
    rm certificate.part key.part
fi
