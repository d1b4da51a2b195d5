"""Passwords that everyone tries first. Compared whole and case-folded, never as a part of a longer one.

Names shorter than the minimum length are refused anyway and do not stand here.
"""

from __future__ import annotations

from typing import Final

COMMON_PASSWORDS: Final = frozenset(
    """
!qaz2wsx 00000000 000000000 01234567 0123456789 10203040 11111111 111111111 11223344 12121212
123123123 12341234 12345678 123456780 123456789 1234567890 12345678910 12345679 1234567a 123456abc
12345qwert 1234abcd 1234qwer 123654789 123abc123 123qwe123 123qweasd 12qwaszx 135792468 147258369
147852369 159753456 1a2b3c4d 1q2w3e4r 1q2w3e4r5t 1qaz2wsx 1qaz2wsx3edc 1qaz@wsx 1qazxsw2 22222222
246813579 33333333 456789123 55555555 66666666 741852963 77777777 789456123 87654321 88888888
963852741 987654321 9876543210 99999999 a1234567 a12345678 a123456789 a1b2c3d4 aa123456 aa12345678
aaaaaaa1 aaaaaaaa abc12345 abc123456 abc123abc abcd1234 abcd12345 abcdabcd abcdefg1 abcdefgh
abcdefghi access123 access14 admin123 admin1234 admin12345 admin@123 adminadmin administrator
administrator1 administrator123 adminpassword alexander alexandra america1 android1 anonymous
anthony1 arsenal1 asdasdasd asdf1234 asdfasdf asdfghjk asdfghjkl asdfqwer asshole1 australia
autumn2024 autumn2025 autumn2026 azerty12 azerty123 azertyuiop babyboy1 babygirl babygirl1 banana123
barcelona baseball baseball1 basketball batman123 beautiful beautiful1 benjamin bestfriend blink182
blizzard bonjour1 bullshit business1 butterfly butterfly1 california canada123 changeit changeme
changeme1 changeme123 charlie1 cheese123 chelsea1 chevrolet chicago1 chocolate chouchou christian
christopher college1 company123 computer computer1 contrasena cookie123 correcthorsebatterystaple
corvette counterstrike crystal1 customer1 danielle darthvader database debian123 december default1
default123 demo1234 demodemo deutschland developer developer1 diamond1 docker123 doctor123 dolphin1
doudou123 dragon123 elephant elizabeth eminem123 employee1 encryption engineer england1 enterprise
enterprise1 facebook facebook1 family123 february ferrari1 florida1 flower123 football football1
football123 forever1 foreverlove fortnite freedom1 friday123 friends1 fuckyou1 fuckyou123 fuckyou2
fussball gandalf1 germany1 github123 gitlab123 goodbye1 google123 gorgeous greenday guest123
guestguest hacker123 hallo123 hallohallo handsome hardcore harley123 harrypotter haslo123 hello123
hello1234 hellohello hellokitty helloworld hogwarts1 honey123 hospital hurricane ichliebedich
iloveme1 iloveu123 iloveyou iloveyou1 iloveyou2 internet internet1 iphone123 january1 jenkins1
jennifer jessica1 jetaime1 jonathan jordan23 juventus keycloak kubernetes letmein! letmein1
letmein123 letmeinnow liberty1 library1 lightning linkedin linkinpark linux123 liverpool london123
lordoftherings lovelove loveyou1 manager1 manchester master123 masterkey matrix123 matthew1 medicine
mercedes metallica michael1 michelle mickey123 microsoft midnight midnight1 minecraft monday123
mongodb1 monkey123 moonlight motdepasse motorola mountain mustang1 mypassword mysecret mysql123
newyork1 nicholas nintendo nirvana1 november nursing1 october1 office123 openopen opensesame
operator operator1 oracle123 orange123 p@$$w0rd p@ssw0rd p@ssw0rd1 p@ssw0rd123 p@ssword pa55w0rd
pa55word parola123 pass1234 pass12345 pass@123 pass@word1 passpass passport passw0rd passw0rd1
passw0rd123 password password! password00 password01 password1 password1! password11 password12
password123 password123! password1234 password2 password21 password99 password@123 passwort
passwort1 patricia pineapple playboy1 playstation pokemon1 pokemon123 porsche1 postgres postgres1
princess princess1 privatekey programmer publickey purple123 q1w2e3r4 q1w2e3r4t5 q2w3e4r5 qazwsx123
qazwsxedc qimem123 qimemqimem qwe12345 qwe123qwe qweqweqwe qwer1234 qwerasdf qwert12345 qwerty12
qwerty123 qwerty1234 qwerty12345 qwertyui qwertyuiop qwertyuiop123 qwertz123 qwertzuiop rainbow1
realmadrid redis123 roblox123 root1234 rootpassword rootroot s3cr3t123 samantha samsung1 saturday
schatzi1 school123 secret12 secret123 secretsecret security security1 senha123 september service1
sesame123 shadow123 skywalker slipknot snowball snowflake soleil123 spiderman spring2024 spring2025
spring2026 staff123 starlight startrek1 starwars starwars1 starwars123 stephanie strawberry student1
summer2020 summer2021 summer2022 summer2023 summer2024 summer2025 summer2026 sunday123 sunflower
sunshine sunshine1 superman superman1 superman123 superstar supervisor support1 support123
sweetheart teacher1 temp1234 temporary temppass test1234 test12345 tester123 testing1 testing123
testtest texas123 thomas123 thunder1 tinkerbell together toor1234 topsecret tornado1 trustno1
twilight ubuntu123 university user1234 username username1 usuario1 vaultvault veronica victoria
volcano1 voldemort voyager1 wachtwoord warcraft welcome! welcome1 welcome12 welcome123 welcome1234
welcome@123 whatever whatever1 william1 windows1 windows10 winter2020 winter2021 winter2022
winter2023 winter2024 winter2025 winter2026 xbox3600 xsw2zaq1 xxxxxxxx yamaha123 yellow123 zaq12wsx
zaq1zaq1 zxcvbnm1 zxcvbnm123 zxczxczxc zzzzzzzz
""".split()
) | {"correct horse battery staple"}
