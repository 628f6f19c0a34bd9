// Verifies a chain as Go's crypto/x509 does: verify ROOTS CHAIN LISTS. Prints the URI of the leaf.
//
// Each CA of the path must have a list among the CRLs, and none may name a certificate of the path.
package main

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"time"
)

func blocks(name string) (found [][]byte) {
	data, err := os.ReadFile(name)
	check(err)
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		found = append(found, block.Bytes)
	}
	return found
}

func certificates(name string) (found []*x509.Certificate) {
	for _, der := range blocks(name) {
		certificate, err := x509.ParseCertificate(der)
		check(err)
		found = append(found, certificate)
	}
	return found
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// Whether the issuer says, in a list of its own and of this time, nothing against a certificate.
func cleared(certificate, issuer *x509.Certificate, lists []*x509.RevocationList) error {
	now := time.Now()
	for _, list := range lists {
		if list.CheckSignatureFrom(issuer) != nil || now.Before(list.ThisUpdate) || now.After(list.NextUpdate) {
			continue
		}
		for _, entry := range list.RevokedCertificateEntries {
			if certificate.SerialNumber.Cmp(entry.SerialNumber) == 0 {
				return errors.New("revoked")
			}
		}
		return nil
	}
	return errors.New("no list of " + issuer.Subject.String())
}

func main() {
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	for _, root := range certificates(os.Args[1]) {
		roots.AddCert(root)
	}
	chain := certificates(os.Args[2])
	for _, certificate := range chain[1:] {
		intermediates.AddCert(certificate)
	}
	var lists []*x509.RevocationList
	for _, der := range blocks(os.Args[3]) {
		list, err := x509.ParseRevocationList(der)
		check(err)
		lists = append(lists, list)
	}
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		paths, err := chain[0].Verify(x509.VerifyOptions{
			Roots: roots, Intermediates: intermediates, KeyUsages: []x509.ExtKeyUsage{usage},
		})
		check(err)
		for index := range paths[0][1:] {
			check(cleared(paths[0][index], paths[0][index+1], lists))
		}
	}
	fmt.Println(chain[0].URIs[0])
}
