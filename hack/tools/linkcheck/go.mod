module github.com/notafter/notafter/hack/tools/linkcheck

go 1.26.8

tool github.com/notafter/notafter/hack/tools/linkcheck

require github.com/yuin/goldmark v1.8.7
